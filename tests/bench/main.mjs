// The benchmark: real merges, each in a process of its own, so that one run's memory is not the next one's. The times
// are those of merge reports.
//
//     npm run bench                                          the emotion fixtures, or the built-in example
//     npm run bench -- --methods all | iteris,ties,…         every method's accuracy on the emotion fixtures
//     npm run bench -- --adapters all | sdxl-r32,flux-r16,…  merges without samples of adapters of the size that people have
//     npm run bench -- --kernels                             GFLOP/s of the CPU's kernels by width of a layer
//     npm run bench -- --shape t5-base | smollm2-135m | llama-7b-2-blocks | vit-b32 | blip-base | tiny | tiny-llama | …
//
// --fixtures DIR, --rounds N for the first; --texts N a task, --density, --scale for the methods; --targets paper | all-linear, --rank N, --passes N (of the peer) for the
// shapes, --workers 1,2 (one, and as many as there are cores), --only sweep,webgpu,native,published,generate to run a part of
// it (webgpu needs: npm install webgpu); --operations, --threads of the peer and --limit of a call's seconds for the adapters
// (adapters.py lists them).
import { availableParallelism, cpus, loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { root } from "../../xtask/paths.mjs";
import { benchAdapters } from "./adapters.mjs";
import { benchEmotion } from "./emotion.mjs";
import { benchKernels } from "./kernels.mjs";
import { benchShape, workerCounts } from "./language.mjs";
import { benchMethods } from "./methods.mjs";

const { values } = parseArgs({
  options: {
    fixtures: { type: "string", default: join(root, "../shared/fixtures/emotion") },
    rounds: { type: "string", default: "3" },
    methods: { type: "string" },
    texts: { type: "string", default: "600" },
    density: { type: "string", default: "0.5" },
    scale: { type: "string", default: "1" },
    adapters: { type: "string" },
    operations: { type: "string", default: "inspect,linear,svd,ties,ties-peft" },
    threads: { type: "string", default: "2" },
    limit: { type: "string", default: "600" },
    kernels: { type: "boolean", default: false },
    shape: { type: "string" },
    targets: { type: "string", default: "paper" },
    rank: { type: "string" },
    passes: { type: "string", default: "10" },
    workers: { type: "string" },
    only: { type: "string", default: "sweep,native,published,generate" },
  },
});

const load = loadavg()[0]?.toFixed(1);
const machine = `Node ${process.version}, ${availableParallelism()} cores of ${cpus()[0]?.model ?? "an unknown processor"}, load ${load} at the start`;
if (values.methods !== undefined) {
  const { fixtures, methods, texts, density, scale } = values;
  benchMethods({
    fixtures,
    methods,
    texts: Number(texts),
    machine,
    more: ["--density", density, "--scale", scale],
  });
} else if (values.kernels) {
  await benchKernels({ machine });
} else if (values.adapters !== undefined) {
  const { adapters, operations, threads, limit } = values;
  benchAdapters({ names: adapters, operations, threads: Number(threads), limit: Number(limit), machine });
} else if (values.shape === undefined) {
  await benchEmotion({ fixtures: values.fixtures, rounds: Number(values.rounds), machine });
} else {
  await benchShape({
    name: values.shape,
    targets: values.targets,
    rank: values.rank === undefined ? undefined : Number(values.rank),
    passes: Number(values.passes),
    only: new Set(values.only.split(",")),
    workers: values.workers?.split(",").map(Number) ?? workerCounts(),
    machine,
  });
}
