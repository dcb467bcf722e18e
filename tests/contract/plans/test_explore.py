import time
from datetime import datetime, UTC, timedelta
from tidings.model import audience as A
from tidings.ports.store import Transaction
import pytest
NOW=datetime(2026,11,22,13,tzinfo=UTC)
N="00000000-0000-7000-8000-%012d"
B="30000000-0000-7000-8000-%012d"
def page(a,after=None,cat="NEWS-1"):
    return lambda s,tx: s.audiences.page(tx,a,category=cat,after=after,limit=1000)
H=A.ticket_holders("event-001"); L="user-149000"
import tidings.packs.events.store as es
CASES={
 "holders":page(H),"holders late":page(H,L),"holders-u":page(H-A.users("user-000001"),L),
 "city":page(A.city("city-1"),L),"everyone":page(A.everyone()),"everyone late":page(A.everyone(),L),
 "favhost":page(A.favourited_host("host-1"),L),"fav":page(A.favourited("event-001"),L),"opted":page(A.opted_in("NEWS-1")),"opted late":page(A.opted_in("NEWS-1"),"user-040000"),
 "users":page(A.users("user-000001","user-000002"),L),
 "or":page(H|A.city("city-1"),L),"city+fav":page(A.city("city-1")|A.favourited_host("host-1"),L),
 "everyone-h":page(A.everyone()-H,L),
 "among":lambda s,tx:s.audiences.among(tx,H-A.city("city-1"),["user-000001"]),
 "among favhost":lambda s,tx:s.audiences.among(tx,A.favourited_host("host-1")|A.opted_in("NEWS-1"),["user-000001"]),
 "active_of":lambda s,tx:s.subscriptions.active_of(tx,["user-000001","user-2"]),
 "claim":lambda s,tx:s.deliveries.claim(tx,[B%7],token="t",now=NOW,lease_until=NOW),
 "wake_due":lambda s,tx:s.deliveries.wake_due(tx,NOW,200),
 "any_due":lambda s,tx:s.deliveries.any_due(tx,NOW),
 "release_expired":lambda s,tx:s.deliveries.release_expired(tx,NOW-timedelta(days=1)),
 "give_back":lambda s,tx:s.deliveries.give_back(tx,["token-1"],NOW),
 "outbox.due":lambda s,tx:s.outbox.due(tx,NOW,500),
 "outbox.remove":lambda s,tx:s.outbox.remove(tx,["a"]),
 "next":lambda s,tx:s.outbox.next_due(tx),
 "unplanned":lambda s,tx:s.notifications.unplanned(tx,after=N%4,limit=100),
 "unplanned0":lambda s,tx:s.notifications.unplanned(tx,after=None,limit=100),
 "waiting":lambda s,tx:s.deliveries.waiting_batches(tx,after=None,limit=100),
 "trace":lambda s,tx:s.deliveries.trace(tx,N%4,user_id=None,after="10000000-0000-7000-8000-000000000777",limit=100),
 "trace user":lambda s,tx:s.deliveries.trace(tx,N%4,user_id="user-000004",after=None,limit=100),
 "skips":lambda s,tx:s.deliveries.skips(tx,N%4,user_id=None,after="40000000-0000-7000-8000-000000000777",limit=100),
 "skips user":lambda s,tx:s.deliveries.skips(tx,N%4,user_id="user-000004",after=None,limit=100),
 "counts":lambda s,tx:s.notifications.counts(tx,N%4),
 "recent":lambda s,tx:s.notifications.recent(tx,before=N%400,limit=50),
 "recent state":lambda s,tx:s.notifications.recent(tx,before=N%400,limit=50,state=__import__("tidings.model.notification").model.notification.NotificationState.CANCELLED),
 "recent cat":lambda s,tx:s.notifications.recent(tx,before=N%400,limit=50,category="x"),
 "recent tpl":lambda s,tx:s.notifications.recent(tx,before=N%400,limit=50,template="x"),
 "recent user":lambda s,tx:s.notifications.recent(tx,before=None,limit=50,user_id="user-000004"),
 "key":lambda s,tx:s.api_keys.find(tx,"x"),
 "events":lambda s,tx:es.page(tx,status=None,city=None,before="event-400",limit=50),
 "events st":lambda s,tx:es.page(tx,status=__import__("tidings.packs.events.events").packs.events.events.EventStatus("ACTIVE"),city=None,before="event-400",limit=50),
 "events city":lambda s,tx:es.page(tx,status=None,city="city-1",before="event-400",limit=50),
 "endpoint":lambda s,tx:s.subscriptions.remove(tx,"user-1","https://x/y"),
 "by_endpoint":lambda s,tx:s.subscriptions._by_endpoint(tx,"https://x/y"),
 "purge":lambda s,tx:s.subscriptions.purge(tx,NOW-timedelta(days=9)),
 "count_gone":lambda s,tx:s.subscriptions.count_gone(tx,since=NOW-timedelta(days=9)),
 "idem purge":lambda s,tx:s.idempotency.purge(tx,NOW-timedelta(days=9)),
 "erase":lambda s,tx:s.users.erase(tx,"user-000004"),
 "unknown":lambda s,tx:s.users.unknown(tx,["a","b"]),
}
@pytest.mark.asyncio(loop_scope="module")
async def test_all(million):
    for analysed in (False,True):
        if analysed:
            import sqlite3; c=sqlite3.connect(million.path); t=time.time(); c.execute("ANALYZE"); c.close(); print("ANALYZE",time.time()-t)
        for name,work in CASES.items():
            t=time.time()
            try: st=await million.explained(work)
            except Exception as e: print("##",name,"ERR",type(e),str(e)[:200]); continue
            print("##",analysed,name,round((time.time()-t)*1000),"ms")
            for s in st:
                bad = "BAD " if s.scans or s.sorts else ""
                print("   ",bad,s.sql.split("\n")[0][:60]);
                for x in s.steps: print("        ",x)
