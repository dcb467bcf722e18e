// Adds the notifications of a shop to the queue of Tidings and prints what became of each.
//
//   node producer.mjs < events.ndjson
//
// A line is an event of the shop: {"id": "…", "type": "ORDER_CREATED", "userId": "…", "variables": {…}}. With `userIds`
// instead of `userId` it is one notification for several users.

import { createInterface } from "node:readline";
import { Queue, QueueEvents } from "bullmq";

const QUEUE = process.env.TIDINGS_INTAKE ?? "{tidings-intake}";
const connection = { host: process.env.REDIS_HOST ?? "127.0.0.1", port: Number(process.env.REDIS_PORT ?? 6379) };
/** Milliseconds to wait for a result. */
const TIMEOUT = 60_000;

const notifications = new Queue(QUEUE, { connection });
const results = new QueueEvents(QUEUE, { connection });
await results.waitUntilReady();

/** Adds the notification of one event. The id of the event makes a repeat harmless: the job exists already. */
function publish({ id, type, userId, userIds, variables, options = {} }) {
  const name = userIds ? "publish-batch-notification" : "publish-notification";
  const recipients = userIds ? { userIds } : { userId };
  return notifications.add(name, { ...recipients, templateCode: type, variables, options }, { jobId: `shop-${id}` });
}

for await (const line of createInterface({ input: process.stdin })) {
  const event = JSON.parse(line);
  const job = await publish(event);
  try {
    console.log(JSON.stringify({ event: event.id, ...(await job.waitUntilFinished(results, TIMEOUT)) }));
  } catch (error) {
    console.log(JSON.stringify({ event: event.id, refused: error.message }));
  }
}

await results.close();
await notifications.close();
