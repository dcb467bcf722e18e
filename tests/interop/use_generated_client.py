"""Uses the client that openapi-python-client generates as the package `tidings_client`; prints what the server said."""

import json
import os

from tidings_client import AuthenticatedClient
from tidings_client.api.notifications import notifications_get_one, notifications_notify
from tidings_client.api.users import users_upsert
from tidings_client.models import NotifyBody, Problem, UserBody

client = AuthenticatedClient(base_url=os.environ["TIDINGS_URL"], token=os.environ["TIDINGS_API_KEY"])
user = users_upsert.sync_detailed("pia", client=client, body=UserBody.from_dict({"locale": "de"}))
body = {"userId": "pia", "templateCode": "MESSAGE", "variables": {"title": "Hello", "body": "From Python"}}
accepted = notifications_notify.sync(client=client, body=NotifyBody.from_dict(body), idempotency_key="python-1")
progress = notifications_get_one.sync(accepted.id, client=client)
missing = notifications_get_one.sync("nothing", client=client)
assert isinstance(missing, Problem)
wrong = notifications_notify.sync(
    client=client, body=NotifyBody.from_dict({**body, "templateCode": "NO_SUCH_TEMPLATE"})
)
assert isinstance(wrong, Problem)
print(
    json.dumps(
        {
            "user": user.status_code,
            "status": progress.status,
            "recipients": progress.recipients,
            "code": missing.code,
            "fields": [one.field for one in wrong.errors],
        }
    )
)
