/** How the page starts, relays to, and ends the workers that help its worker; and how that one asks for them. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { FromHelper, ToHelper } from "../../www/lib/engine/share.ts";
import { HelpersOfPage } from "../../www/lib/worker/ask-page.ts";
import { WorkerClient, type WorkerLike } from "../../www/lib/worker/client.ts";
import type { HelperWorker } from "../../www/lib/worker/page-helpers.ts";
import type { AboutHelper, FromWorker, ToHelperWorker, ToWorker } from "../../www/lib/worker/protocol.ts";

/** The page's worker: it asks for helpers as the real one does, and answers no call. */
class FakeWorker implements WorkerLike {
  onmessage: WorkerLike["onmessage"] = null;
  onerror: WorkerLike["onerror"] = null;
  onmessageerror: WorkerLike["onmessageerror"] = null;
  terminated = false;
  readonly heard: ToWorker[] = [];
  readonly helpers = new HelpersOfPage((message) => this.say(message));

  postMessage(message: ToWorker): void {
    this.heard.push(message);
    if (message.type === "helper-failed") this.helpers.failed(message);
  }

  terminate(): void {
    this.terminated = true;
  }

  say(data: FromWorker): void {
    this.onmessage?.({ data } as MessageEvent<FromWorker>);
  }
}

class FakeHelper implements HelperWorker {
  onerror: HelperWorker["onerror"] = null;
  terminated = false;
  readonly heard: ToHelperWorker[] = [];

  postMessage(message: ToHelperWorker): void {
    this.heard.push(message);
  }

  terminate(): void {
    this.terminated = true;
  }

  get port(): MessagePort {
    const [first] = this.heard;
    if (first?.type !== "connect") throw new Error("it was handed no port");
    return first.port;
  }
}

const module = new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
const open: ToHelper = { type: "open", module, job: { name: "merge", base: [], options: {} } };

let workers: FakeWorker[];
let helpers: FakeHelper[];
let refuses: boolean;
let client: WorkerClient;
beforeEach(() => {
  workers = [];
  helpers = [];
  refuses = false;
  client = new WorkerClient(
    () => {
      const worker = new FakeWorker();
      workers.push(worker);
      return worker;
    },
    () => {
      if (refuses) throw new Error("a policy forbids workers");
      const helper = new FakeHelper();
      helpers.push(helper);
      return helper;
    },
  );
});
afterEach(() => {
  client.release();
  for (const { heard } of helpers) {
    for (const message of heard) if (message.type === "connect") message.port.close();
  }
});

/** The worker, started by a call that it never answers. */
function started(): { worker: FakeWorker; call: Promise<unknown> } {
  const call = client.version();
  call.catch(() => {});
  const worker = workers.at(-1);
  if (worker === undefined) throw new Error("no worker was started");
  return { worker, call };
}

describe("a helper", () => {
  it("is started by the page, and speaks with the worker by a port of its own", async () => {
    const said: FromHelper[] = [];
    const { worker } = started();
    const helper = worker.helpers.start(
      (message) => said.push(message),
      () => {},
    );
    expect(helpers).toHaveLength(1);
    // What is asked before it listens waits.
    helper.post({ type: "ask", id: 1, question: Uint8Array.of(7) });
    const asked: ToHelper[] = [];
    helpers[0]?.port.addEventListener("message", ({ data }) => asked.push(data));
    helpers[0]?.port.start();
    await expect.poll(() => asked).toEqual([{ type: "ask", id: 1, question: Uint8Array.of(7) }]);
    helpers[0]?.port.postMessage({ type: "answer", id: 1, answer: Uint8Array.of(8) });
    await expect.poll(() => said).toEqual([{ type: "answer", id: 1, answer: Uint8Array.of(8) }]);
    helper.end(false);
  });

  it("is told by the page where a job begins, which takes the compiled module, and where it ends", () => {
    const { worker } = started();
    const ends = [0, 1].map(() =>
      worker.helpers.start(
        () => {},
        () => {},
      ),
    );
    ends[1]?.post(open);
    ends[1]?.post({ type: "rest" });
    expect(helpers.map(({ heard }) => heard.slice(1))).toEqual([[], [open, { type: "rest" }]]);
    for (const { end } of ends) end(false);
  });

  it("is ended alone where the worker has no more use for it", () => {
    const { worker } = started();
    const [first, second] = [0, 1].map(() =>
      worker.helpers.start(
        () => {},
        () => {},
      ),
    );
    first?.end(false);
    expect(helpers.map(({ terminated }) => terminated)).toEqual([true, false]);
    second?.end(false);
    expect(worker.terminated).toBe(false);
  });

  it("that fails, or that cannot be started, is told to the worker and ends no call", () => {
    const { worker } = started();
    const failures: string[] = [];
    const start = () =>
      worker.helpers.start(
        () => {},
        (error) => failures.push(`${error.code}: ${error.message}`),
      );
    const lost = start();
    const prevented: boolean[] = [];
    const event = { message: "", preventDefault: () => prevented.push(true) };
    helpers[0]?.onerror?.(event as unknown as ErrorEvent);
    refuses = true;
    const none = start();
    none.post(open);
    expect(failures).toEqual([
      "internal: Internal fault: a worker failed, its script cannot be loaded",
      "internal: Internal fault: a worker failed, Error: a policy forbids workers",
    ]);
    expect(prevented).toEqual([true]);
    expect(worker.terminated).toBe(false);
    lost.end(false);
    none.end(false);
    // It may tell of itself once more when nobody listens.
    worker.helpers.failed({ type: "helper-failed", helper: 1, what: "late" });
    expect(failures).toHaveLength(2);
  });
});

describe("all helpers", () => {
  function withTwo(): { worker: FakeWorker; call: Promise<unknown> } {
    const { worker, call } = started();
    for (let one = 0; one < 2; one += 1) {
      worker.helpers.start(
        () => {},
        () => {},
      );
    }
    return { worker, call };
  }

  it("are ended by release, with the worker", async () => {
    const { worker, call } = withTwo();
    client.release();
    await expect(call).rejects.toMatchObject({ code: "cancelled" });
    expect([worker, ...helpers].map(({ terminated }) => terminated)).toEqual([true, true, true]);
    // Asked for by a worker that is gone.
    worker.say({ type: "start-helper", helper: 3, port: new MessageChannel().port1 } satisfies AboutHelper);
    expect(helpers).toHaveLength(2);
  });

  it("are ended where the worker is replaced, and the next worker gets its own", async () => {
    const { worker, call } = withTwo();
    const id = worker.heard[0]?.type === "call" ? worker.heard[0].id : -1;
    worker.say({ type: "failed", id, error: { code: "cancelled", message: "stopped" }, retire: true });
    await expect(call).rejects.toMatchObject({ code: "cancelled" });
    expect(helpers.map(({ terminated }) => terminated)).toEqual([true, true]);
    withTwo();
    expect(workers).toHaveLength(2);
    expect(helpers.map(({ terminated }) => terminated)).toEqual([true, true, false, false]);
  });

  it("are ended where the worker breaks between two calls", () => {
    const { worker } = withTwo();
    worker.say({ type: "broken" });
    expect(helpers.map(({ terminated }) => terminated)).toEqual([true, true]);
  });
});
