// A client that uses the stock BullMQ of Node.js: runs steps given as JSON and prints the result of each.
//
//   node shop.mjs FOLDER_WITH_NODE_MODULES REDIS_URL < steps.json
//
// A step is {"do": NAME, "queue": NAME, …}. The result of a step that throws is {"error": message}.

import { createRequire } from "node:module";
import { join } from "node:path";
import { text } from "node:stream/consumers";

const [folder, url] = process.argv.slice(2);
const { Job, Queue, QueueEvents } = createRequire(join(folder, "package.json"))("bullmq");
const { hostname: host, port } = new URL(url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
/** Milliseconds: longer than any step takes unless it hangs. */
const TIMEOUT = 60_000;

const queues = new Map();
const listeners = new Map();
const queueOf = (name) => queues.get(name) ?? queues.set(name, new Queue(name, { connection })).get(name);
const listenerOf = (name) =>
  listeners.get(name) ?? listeners.set(name, new QueueEvents(name, { connection })).get(name);

const STATES = ["waiting", "prioritized", "active", "delayed", "completed", "failed", "paused", "waiting-children"];

const steps = {
  /** Adds a job and waits for its result. */
  async ask({ queue, name, data, options = {} }) {
    const events = listenerOf(queue);
    await events.waitUntilReady();
    const job = await queueOf(queue).add(name, data, options);
    let answer;
    try {
      answer = await job.waitUntilFinished(events, TIMEOUT);
    } catch (error) {
      answer = { refused: error.message };
    }
    const stored = await Job.fromId(queueOf(queue), job.id);
    return { answer, state: await stored.getState(), returnvalue: stored.returnvalue, failedReason: stored.failedReason };
  },

  async addBulk({ queue, jobs }) {
    return (await queueOf(queue).addBulk(jobs)).map((job) => job.id);
  },

  async counts({ queue }) {
    return queueOf(queue).getJobCounts();
  },

  /** Reads what a dashboard shows of a queue. */
  async look({ queue }) {
    const inspected = queueOf(queue);
    const jobs = await inspected.getJobs(STATES, 0, 100);
    const shown = [];
    for (const job of jobs.filter(Boolean)) {
      const { logs } = await inspected.getJobLogs(job.id);
      shown.push({ ...job.toJSON(), state: await job.getState(), logs });
    }
    await Promise.all([
      inspected.getJobCounts(),
      inspected.getWorkers(),
      inspected.isPaused(),
      inspected.getMetrics("completed"),
      inspected.count(),
      inspected.getCountsPerPriority([0, 1, 2, 3, 4]),
      inspected.getRateLimitTtl(),
      inspected.getMeta(),
    ]);
    return shown;
  },
};

const answers = [];
for (const step of JSON.parse(await text(process.stdin))) {
  try {
    answers.push(await steps[step.do](step));
  } catch (error) {
    answers.push({ error: String(error.stack ?? error) });
  }
}
for (const client of [...listeners.values(), ...queues.values()]) await client.close();
process.stdout.write(JSON.stringify(answers));
