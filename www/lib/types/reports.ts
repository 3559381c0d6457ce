/**
 * What merges and comparisons say of themselves. Snake_case, because a {@link MergeReport} is, byte for byte, the
 * `merge_report.json` that is written beside a merged adapter: the core's `src/report.rs` has the same fields.
 */
import type { ReportOptions } from "../generated.ts";
import type { DeviceKind } from "./device.ts";

export type { ReportOptions } from "../generated.ts";

/** A file as a report names it. */
export interface ReportFile {
  name: string;
  bytes: number;
  sha256: string;
}

/** The content of `merge_report.json`: enough to repeat the merge, and what it did per layer. */
export interface MergeReport {
  /** Of the report's own format. */
  version: number;
  /** The program and its version. */
  created_by: string;
  options: ReportOptions;
  device: DeviceKind;
  /** Why, where the caller left the choice open. */
  device_why?: string;
  /** How many workers shared the work; reports of older programs lack it. */
  workers?: number;
  /** `null` where the merge needed none. `path` leads from the report's folder to the input, where it is known. */
  base: { name: string; path: string | null; files: ReportFile[] } | null;
  adapters: {
    name: string;
    /** From the report's folder, where it is known. */
    path: string | null;
    weight: number;
    rank: number;
    files: ReportFile[];
    samples: {
      source: string | null;
      /** From the report's folder, where it is known. */
      path: string | null;
      count: number;
      /** How many were cut to the maximum length. */
      truncated: number;
      tokens: number;
      sha256: string;
      /** Where the answers came from: the samples, the adapter itself, or the start token stands for them. */
      answers: "none" | "given" | "own" | "start" | "mixed";
      answer_tokens: number;
      /** Set where the adapter wrote the samples itself. */
      self: {
        count: number;
        max_new_tokens: number;
        temperature: number;
        top_p: number;
        seed: number;
        prompt_tokens: number;
        /** What every text began with; `null` for the model's first token. */
        prompt: string | null;
      } | null;
    } | null;
  }[];
  /** The merged modules, in the order of the forward pass. */
  layers: {
    module: string;
    /** The rank that was written. */
    rank: number;
    /** Share of the squared Frobenius norm kept by a truncation, 0 to 1. */
    energy_kept: number | null;
    /** `||D* - written|| / ||D*||`, 0 where nothing was cut. */
    error: number | null;
    /** Estimated condition number of the regularised Gram matrix. */
    condition: number | null;
    seconds: number;
    /** `residual` is `||X_i D_i^T - Xt_i D*^T||² / ||X_i D_i^T||²`. */
    tasks: { task: string; lambda: number | null; residual: number | null }[];
  }[];
  seconds: {
    load: number;
    generate: number;
    forward: number;
    gram: number;
    /** Waiting for other workers; reports of older programs lack it. */
    wait?: number;
    solve: number;
    write: number;
    total: number;
  };
  /** Floating-point operations. */
  operations: { forward: number; gram: number };
  /** The most memory the wasm module has held. */
  peak_bytes: number;
  /** Sentences a person should read, for example how many samples were cut. */
  notes: string[];
  /** What was written, but for the report itself. */
  output: ReportFile[];
}

/** A class and how likely it is. */
export interface ClassShare {
  label: string;
  /** 0 to 1, of all classes that there are to choose from. */
  share: number;
}

/** What base, adapter and merged adapters say of one picture. */
export interface SaidOfPicture {
  /** The file's name, as the samples have it. */
  picture: string;
  /** The class that is right, where the samples tell it. */
  label?: string | number;
  /** The caption that came with it. */
  caption?: string;
  variants: {
    /** `base`, `adapter`, or the name of a merged adapter. */
    variant: string;
    /** The caption that it writes, without special tokens. */
    text?: string;
    /** Its likeliest classes, five at most, the likeliest first. */
    classes?: ClassShare[];
  }[];
}

/** How base, adapters and merged adapters do on the same samples. */
export interface CompareReport {
  tasks: {
    task: string;
    samples: number;
    /** How many of them have a label that the adapter knows. */
    labelled: number;
    variants: {
      /** `base`, `adapter`, or the name of a merged adapter. */
      variant: string;
      /** Share of samples on which it answers as the task's own adapter does, 0 to 1. */
      agreement: number | null;
      /** Share of labelled samples that it gets right, 0 to 1. */
      accuracy: number | null;
      /** Mean cosine of its pooled features with those of the task's own adapter. */
      cosine: number;
    }[];
    /** Of models that read pictures: what each variant says of the first sixteen. */
    said?: SaidOfPicture[];
  }[];
  /** `||X_i D_i^T - Xt_i D*^T||² / ||X_i D_i^T||²` per targeted module. */
  residuals: { module: string; task: string; variant: string; residual: number }[];
  seconds: number;
  notes: string[];
}
