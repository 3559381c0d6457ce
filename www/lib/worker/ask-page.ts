/**
 * The worker's side of starting helpers: it asks the page to, and speaks with each through a port of its own.
 *
 * The page starts them because Chromium sometimes never ends a worker that has started another.
 */
import type { HelperHost } from "../engine/pool.ts";
import { IterisError } from "../errors.ts";
import type { AboutHelper, HelperFailed } from "./protocol.ts";

/** Helpers that the page starts. */
export class HelpersOfPage {
  readonly #post: (message: AboutHelper, handedOver: Transferable[]) => void;
  readonly #failures = new Map<number, (error: IterisError) => void>();
  #ids = 0;

  /** @param post - posts to the page */
  constructor(post: (message: AboutHelper, handedOver: Transferable[]) => void) {
    this.#post = post;
  }

  /** Starts one. It can be posted to at once: what it hears before it is loaded waits. */
  readonly start: HelperHost["start"] = (onMessage, onFailure) => {
    this.#ids += 1;
    const helper = this.#ids;
    const { port1: near, port2: far } = new MessageChannel();
    near.onmessage = ({ data }) => onMessage(data);
    near.onmessageerror = () => {
      onFailure(new IterisError("internal", "Internal fault: a worker's answer cannot be read."));
    };
    this.#failures.set(helper, onFailure);
    this.#post({ type: "start-helper", helper, port: far }, [far]);
    return {
      post: (message) => {
        // A job is opened by way of the page: a port does not take a compiled module in every browser (WebKit's refuses it).
        // It ends the same way, so that its end does not overtake its beginning; questions may, and wait.
        if (message.type === "ask") near.postMessage(message);
        else this.#post({ type: "tell-helper", helper, message }, []);
      },
      end: () => {
        near.close();
        this.#failures.delete(helper);
        this.#post({ type: "end-helper", helper }, []);
      },
    };
  };

  /** Hears what the page tells of one. */
  failed({ helper, what }: HelperFailed): void {
    this.#failures.get(helper)?.(new IterisError("internal", `Internal fault: a worker failed, ${what}`));
  }
}
