// Type-checked against the installed declarations, then run with its types taken off.
import process from "node:process";
import { IterisError, type MergeReport, merge, type NodeMergeRequest } from "iteris-web";

const [, , text = "{}"] = process.argv;
const inputs = JSON.parse(text) as Pick<NodeMergeRequest, "base" | "adapters" | "workers">;

const { files, report } = await merge({ ...inputs, device: "cpu", options: { schedule: "sweep" } });
const made: Record<string, string> = {};
for (const { name, blob } of files) made[name] = Buffer.from(await blob.arrayBuffer()).toString("base64");
const layers: MergeReport["layers"] = report.layers;

const code: string = await merge({ base: inputs.base, adapters: [] }).then(
  () => "none",
  (error: unknown) => (error instanceof IterisError ? error.code : "untyped"),
);

console.log(JSON.stringify({ made, layers: layers.length, code }));
