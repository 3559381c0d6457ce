/**
 * Hears what a panic says.
 *
 * The trap that ends a panic carries no text; the core's panic hook prints it with `console.error` just
 * before. The last such text is kept for the error that follows it.
 */

/** Listens to `console.error`; the result tells the last panic's text and forgets it. */
export function listenForPanics(target: Pick<Console, "error">): () => string | null {
  let last: string | null = null;
  const original = target.error;
  target.error = (...args: unknown[]) => {
    const text = args.map(String).join(" ");
    // The lines after the first are a stack trace, which the console still gets.
    if (text.includes("panicked at")) last = text.split("\n\nStack:", 1)[0]?.trim() ?? text;
    original.apply(target, args);
  };
  return () => {
    const text = last;
    last = null;
    return text;
  };
}
