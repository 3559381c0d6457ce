/** What encoding a sample asks for, and what it gives. */

/** One sample as the core takes it. */
export interface EncodedSample {
  /** A text, a prompt, or what an encoder reads; special tokens among them. */
  ids: number[];
  typeIds: number[];
  truncated: boolean;
  /** The adapter is to write the answer itself. */
  writes: boolean;
  /** The given answer with the token that ends it, empty where none is given. */
  answer: number[];
  /** The right answer with the token that ends it, empty where none is known or wanted. */
  label: number[];
}

/** How samples are encoded. */
export interface Lengths {
  /** Tokens a sample is cut to, a given answer among them if the model reads both as one. */
  maxLength: number;
  /** Tokens that are written after a prompt without an answer. */
  maxNewTokens: number;
  /** Whether right answers are wanted: for comparisons. */
  labels: boolean;
}
