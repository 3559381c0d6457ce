/**
 * Lets other tasks of the event loop run: the message that cancels a merge above all.
 *
 * A message to oneself queues behind the messages that wait already. `setTimeout` would be clamped to 4 ms,
 * and `scheduler.yield` goes on before waiting messages are seen.
 */
let waiting: (() => void)[] = [];
let channel: MessageChannel | null = null;

/** Resolves in a later task. */
export function nextTask(): Promise<void> {
  if (channel === null) {
    channel = new MessageChannel();
    channel.port1.onmessage = () => {
      const due = waiting;
      waiting = [];
      for (const resolve of due) resolve();
    };
  }
  const { port2 } = channel;
  return new Promise((resolve) => {
    waiting.push(resolve);
    port2.postMessage(null);
  });
}
