// Uses the client that openapi-typescript generates: type-checked by tsc, then run against a server.
import createClient from "openapi-fetch";
import type { paths } from "./client.d.ts";

const client = createClient<paths>({
  baseUrl: process.env.TIDINGS_URL!,
  headers: { Authorization: `Bearer ${process.env.TIDINGS_API_KEY}` },
});

const user = await client.PUT("/api/users/{user_id}", {
  params: { path: { user_id: "tess" } },
  body: { locale: "de", timezone: "Europe/Berlin" },
});
const accepted = await client.POST("/api/notifications", {
  params: { header: { "Idempotency-Key": "typescript-1" } },
  body: {
    userId: "tess",
    templateCode: "MESSAGE",
    variables: { title: "Hello", body: "From TypeScript" },
    options: { priority: "high", actionUrl: "/orders/1", actionText: "View order" },
  },
});
if (accepted.data === undefined || !("id" in accepted.data)) throw new Error(JSON.stringify(accepted.error));
const id = accepted.data.id;
const progress = await client.GET("/api/notifications/{notification_id}", {
  params: { path: { notification_id: id } },
});
const missing = await client.GET("/api/notifications/{notification_id}", {
  params: { path: { notification_id: "nothing" } },
});
const wrong = await client.POST("/api/notifications", {
  body: { userId: "tess", templateCode: "NO_SUCH_TEMPLATE" },
});
const code: string = missing.error!.code;
const fields: string[] = wrong.error!.errors!.map((each) => each.field);
console.log(
  JSON.stringify({
    user: user.response.status,
    status: progress.data!.status,
    recipients: progress.data!.recipients,
    code,
    fields,
  }),
);
