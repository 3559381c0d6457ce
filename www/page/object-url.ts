/** The address of a Blob while something on the page shows it; let go with what showed it, or when another takes its place. */
import { AsyncDirective } from "lit-html/async-directive.js";
import { directive } from "lit-html/directive.js";

class ObjectUrl extends AsyncDirective {
  #blob: Blob | undefined;
  #url: string | undefined;

  override render(blob: Blob): string {
    if (this.#url !== undefined && blob === this.#blob) return this.#url;
    this.#release();
    this.#blob = blob;
    this.#url = URL.createObjectURL(blob);
    return this.#url;
  }

  protected override disconnected(): void {
    this.#release();
  }

  protected override reconnected(): void {
    if (this.#blob) this.setValue(this.render(this.#blob));
  }

  #release(): void {
    if (this.#url !== undefined) URL.revokeObjectURL(this.#url);
    this.#url = undefined;
  }
}

/** For a `src`. */
export const objectUrl = directive(ObjectUrl);
