/** A report as of a merge of SDXL adapters: 722 modules of the UNet under diffusers' names. */
import type { MergeReport } from "../../www/lib/types.ts";

/** Blocks of the UNet: where they stand, how many attentions and how many transformer blocks in each. */
const PLACES: readonly [place: string, attentions: number, blocks: number][] = [
  ["down_blocks.1", 2, 2],
  ["down_blocks.2", 2, 10],
  ["mid_block", 1, 10],
  ["up_blocks.0", 3, 10],
  ["up_blocks.1", 3, 2],
];
const KINDS = ["attn1", "attn2"].flatMap((attention) =>
  ["to_q", "to_k", "to_v", "to_out.0"].map((part) => `${attention}.${part}`),
);

/** The 722 linear layers of SDXL's UNet that adapters usually target. */
export function sdxlModules(): string[] {
  return PLACES.flatMap(([place, attentions, blocks]) =>
    Array.from({ length: attentions }, (_, attention) => {
      const at = `unet.${place}.attentions.${attention}`;
      const inBlocks = Array.from({ length: blocks }, (_, block) =>
        [...KINDS, "ff.net.0.proj", "ff.net.2"].map((kind) => `${at}.transformer_blocks.${block}.${kind}`),
      );
      return [`${at}.proj_in`, ...inBlocks.flat(), `${at}.proj_out`];
    }).flat(),
  );
}

/** What a cut to rank 16 says of them; numbers repeat, so that the same report comes each time. */
export function sdxlReport(): MergeReport {
  const adapters = ["one", "two"].map((name) => ({
    name,
    path: null,
    weight: 1,
    rank: 16,
    files: [],
    samples: null,
  }));
  return {
    version: 2,
    created_by: "iteris-web 0.0.0",
    options: { method: "svd" } as unknown as MergeReport["options"],
    device: "cpu",
    base: null,
    adapters,
    layers: sdxlModules().map((module, index) => ({
      module,
      rank: index % 9 === 0 ? 8 : 16,
      energy_kept: 1 - ((index * 7) % 100) / 2000,
      error: ((index * 7) % 100) / 1000 + (index === 123 ? 0.9 : 0),
      condition: null,
      seconds: 0.01,
      tasks: adapters.map(({ name }) => ({ task: name, lambda: null, residual: null })),
    })),
    seconds: { load: 1, generate: 0, forward: 0, gram: 0, solve: 8, write: 1, total: 10 },
    operations: { forward: 0, gram: 0 },
    peak_bytes: 5e8,
    notes: [],
    output: [],
  };
}
