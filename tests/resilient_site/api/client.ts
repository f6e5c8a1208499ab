// Every resource, by a client of types that openapi-typescript has made.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };
const [baseUrl, token, finished] = process.argv.slice(2) as [string, string, string];
const api = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

function must<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) {
    throw new Error(`${answer.response.status} ${JSON.stringify(answer.error)}`);
  }
  return answer.data;
}
function equal(actual: unknown, expected: unknown): void {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) {
    throw new Error(`${JSON.stringify(actual)} is not ${JSON.stringify(expected)}`);
  }
}

const id = "ts.bolt";
const one = { params: { path: { id } } };
const created = must(await api.POST("/api/v1/items", { body: { id, name: "Bolt" } }));
// Strict: what every response has is not optional.
const tags: string[] = created.tags;
const description: string = created.description;
equal([tags, description], [[], ""]);
equal(must(await api.PATCH("/api/v1/items/{id}", { ...one, body: { name: "Nut" } })).version, 2);
equal(must(await api.PUT("/api/v1/items/{id}", { ...one, body: { name: "Cap" } })).version, 3);
equal(must(await api.GET("/api/v1/items/{id}", one)).name, "Cap");
const query = { search: "cap", page_size: 5 };
equal(must(await api.GET("/api/v1/items", { params: { query } })).results.length, 1);
equal(must(await api.GET("/api/v1/items/{id}/history", one)).results[0]?.action, "updated");
const bulk = must(await api.POST("/api/v1/items/-/bulk", { body: [{ name: "a" }, { name: "b" }] }));
equal(bulk.results.map((item) => item.name), ["a", "b"]);
const [first, second] = bulk.results.map((item) => item.id);
const rows = [{ id: first, name: "c", version: 1 }];
equal(must(await api.PUT("/api/v1/items/-/bulk", { body: rows })).updated, 1);
const changed = must(await api.PATCH("/api/v1/items/-/bulk", { body: [{ id: first, tags: ["t"] }] }));
equal(changed.results[0]?.tags, ["t"]);
equal(must(await api.DELETE("/api/v1/items/-/bulk", { body: [{ id: second }] })).deleted, 1);
const file = await api.GET("/api/v1/items/-/export", {
  params: { query: { format: "ndjson" } }, parseAs: "text",
});
equal(must(file).includes("Cap"), true);
equal((await api.DELETE("/api/v1/items/{id}", one)).response.status, 204);

const missing = await api.GET("/api/v1/items/{id}", one);
const problem: components["schemas"]["Problem"] | undefined = missing.error;
const code: components["schemas"]["ProblemCode"] | undefined = problem?.code;
equal(code, "item_deleted");

const unit = { params: { path: { key: "unit" } } };
const declared = { properties: { symbol: { type: "string" } } };
const collection = must(await api.POST("/api/v1/collections", {
  body: { key: "unit", name: "Units", schema: declared },
}));
equal([collection.version, collection.licence], [1, ""]);
equal(must(await api.GET("/api/v1/collections/{key}/schema", unit)), declared);
must(await api.PUT("/api/v1/collections/{key}/schema", { ...unit, body: declared }));
equal(must(await api.PATCH("/api/v1/collections/{key}", { ...unit, body: { source: "BIPM" } })).source, "BIPM");
const metre = { collection: "unit", code: "m", name: "Metre", tags: ["base unit"] };
equal(must(await api.POST("/api/v1/items", { body: metre })).id, "unit.m");
equal(must(await api.GET("/api/v1/collections")).results.map((one) => one.item_count), [2, 1]);
equal(must(await api.GET("/api/v1/collections/{key}", unit)).name, "Units");
const { path } = unit.params;
const found = must(await api.GET("/api/v1/collections/{key}/lookup", {
  params: { path, query: { code: "m" } },
}));
equal(found.label, "Metre");
const codes = ["m", "x"];
const many = must(await api.POST("/api/v1/collections/{key}/lookup", { ...unit, body: { codes } }));
equal(many.results.map((result) => result.found), [true, false]);
const translated = must(await api.GET("/api/v1/collections/{key}/translate", {
  params: { path, query: { code: "m", to: "general" } },
}));
equal(translated.mappings, []);
const both = must(await api.POST("/api/v1/collections/{key}/translate", {
  ...unit, body: { codes, to: "general" },
}));
equal(both.results.length, 2);

const tag = { params: { path: { name: "base unit" } } };
equal(must(await api.GET("/api/v1/tags")).results[0]?.item_count, 1);
equal(must(await api.GET("/api/v1/tags/{name}", tag)).description, "");
equal(must(await api.PATCH("/api/v1/tags/{name}", { ...tag, body: { name: "SI/base" } })).name, "si/base");
const si = { params: { path: { name: "si/base" } } };
const merged = await api.POST("/api/v1/tags/{name}/merge", { ...si, body: { into: "si/base" } });
equal(merged.error?.code, "invalid");
equal((await api.DELETE("/api/v1/items/{id}", { params: { path: { id: "unit.m" } } })).response.status, 204);
equal((await api.DELETE("/api/v1/tags/{name}", si)).response.status, 204);
must(await api.PUT("/api/v1/collections/{key}", { ...unit, body: { key: "unit", name: "Units of measure" } }));
equal((await api.DELETE("/api/v1/collections/{key}", unit)).response.status, 204);

const changes = must(await api.GET("/api/v1/changes", { params: { query: { page_size: 1 } } }));
equal(changes.results[0]?.actor !== undefined, true);
const events = await api.GET("/api/v1/changes/events", {
  params: { query: { since: "now" } }, parseAs: "stream",
});
await events.response.body?.cancel();

const tasks = must(await api.GET("/api/v1/tasks")).results;
const name = "heavy_computation";
equal(tasks.some((task) => task.name === name), true);
equal(must(await api.GET("/api/v1/tasks/{name}", { params: { path: { name } } })).may_run, true);
const job = must(await api.POST("/api/v1/jobs", { body: { task: name, params: { size: 10 } } }));
const work = { params: { path: { id: job.id } } };
equal(must(await api.GET("/api/v1/jobs/{id}", work)).state, "queued");
equal(must(await api.GET("/api/v1/jobs", { params: { query: { task: name } } })).results.length, 2);
equal(must(await api.POST("/api/v1/jobs/{id}/cancel", work)).state, "cancelled");
const done = { params: { path: { id: finished } } };
equal(must(await api.GET("/api/v1/jobs/{id}/result", done)), { message: "done" });
await (await api.GET("/api/v1/jobs/{id}/events", { ...done, parseAs: "stream" })).response.body?.cancel();
const part = await api.GET("/api/v1/jobs/{id}/files/{name}", {
  params: { path: { id: finished, name: "out.txt" } }, parseAs: "text",
});
equal(must(part), "x");
const busy = await api.GET("/api/v1/heavy_computation", { params: { query: { size: 10 } } });
equal([200, 503].includes(busy.response.status), true);
