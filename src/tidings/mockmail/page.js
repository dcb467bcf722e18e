// Keeps the list of messages current. The page works without it.

/** Replace the list by that of the same page, if more messages have arrived. */
async function refreshList() {
  const list = document.getElementById("list");
  if (list === null || document.hidden) return;
  const response = await fetch("/api/messages?limit=1");
  const { received } = await response.json();
  if (String(received) === list.dataset.last) return;
  const page = await (await fetch(location.href)).text();
  const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("list");
  if (fresh === null) return;
  const scrolled = list.scrollTop;
  list.replaceWith(fresh);
  fresh.scrollTop = scrolled;
}

// a stopped service ends the refreshes until the page is loaded again
const timer = setInterval(() => refreshList().catch(() => clearInterval(timer)), 2000);
