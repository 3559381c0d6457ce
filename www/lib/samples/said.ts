/** What variants say of pictures, held against what the task's own adapter says. */
import type { SaidOfPicture } from "../types.ts";

type Said = SaidOfPicture["variants"][number];

/** The caption, or the likeliest class. */
function answerOf({ text, classes }: Said): string | undefined {
  return text ?? classes?.[0]?.label;
}

/**
 * Whether a variant says of a picture what the task's own adapter says: the same caption, or the same class first.
 *
 * @param variant - `base`, or the name of a merged adapter
 * @returns `null` where one of the two says nothing
 *
 * @example
 * ```ts
 * const [task] = report.tasks;
 * const same = task?.said?.filter((picture) => saysTheSame(picture, "iteris")).length ?? 0;
 * ```
 */
export function saysTheSame({ variants }: SaidOfPicture, variant: string): boolean | null {
  const find = (name: string) => variants.find((one) => one.variant === name);
  const [said, own] = [find(variant), find("adapter")];
  const [answer, wanted] = [said && answerOf(said), own && answerOf(own)];
  return answer === undefined || wanted === undefined ? null : answer === wanted;
}
