/**
 * Traps of wasm that no `catch` of a call sees.
 *
 * A panic in a task that wasm spawned surfaces as an uncaught exception or an unhandled rejection of the
 * process, while the call it belongs to waits for ever. During a call those two are listened to. Whatever is
 * not a trap is thrown on, so that it ends the process as it would have.
 */

/** Calls `onTrap` for traps until the result is called. */
export function listenForTraps(onTrap: (trap: WebAssembly.RuntimeError) => void): () => void {
  const listener = (thrown: unknown) => {
    if (!(thrown instanceof WebAssembly.RuntimeError)) throw thrown;
    onTrap(thrown);
  };
  process.on("uncaughtException", listener);
  process.on("unhandledRejection", listener);
  return () => {
    process.off("uncaughtException", listener);
    process.off("unhandledRejection", listener);
  };
}
