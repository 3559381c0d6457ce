/**
 * A headless Chromium for the tests, with WebGPU on its software adapter.
 *
 * The flags keep it from calling home, so that every request a test sees is the page's own.
 */
import { type Browser, chromium, type Page } from "playwright-core";
import { chromium as findChromium } from "../../../xtask/steps/chromium.mjs";

let shared: Promise<Browser> | undefined;

/**
 * The browser that every file of a project shares, since starting one takes seconds: to close it closes its pages.
 *
 * @param webgpu - whether there is WebGPU, on the software adapter; a browser without it is the caller's own
 */
export async function launchBrowser({ webgpu = true } = {}): Promise<Browser> {
  if (!webgpu) return await launch(webgpu);
  shared ??= launch(webgpu);
  const browser = await shared;
  const close = async () => {
    await Promise.all(browser.contexts().map((context) => context.close()));
  };
  return new Proxy(browser, {
    get(target, name) {
      if (name === "close") return close;
      const value = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

async function launch(webgpu: boolean): Promise<Browser> {
  return await chromium.launch({
    executablePath: await findChromium(),
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...(webgpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"]),
    ],
  });
}

/** What a page did that a test may want to hold against it. Filled while the page lives. */
export interface PageLog {
  /** `METHOD URL` of every request, the workers' too. */
  requests: string[];
  /** Console errors and warnings, uncaught errors, and what the Content-Security-Policy refused. */
  complaints: string[];
}

/** Starts to write down what `page` does. Call it before the first `goto`. */
export function watch(page: Page): PageLog {
  const log: PageLog = { requests: [], complaints: [] };
  // The context, not the page: requests of a dedicated worker belong to it too.
  page.context().on("request", (request) => log.requests.push(`${request.method()} ${request.url()}`));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") log.complaints.push(message.text());
  });
  page.on("pageerror", (error) => log.complaints.push(String(error)));
  return log;
}

/**
 * Milliseconds that each task of the pages' main threads has computed, from a Chromium trace. Computed, not
 * waited: what other programs on the machine take away says nothing about the page.
 */
export function mainThreadTasks(trace: Buffer): number[] {
  const { traceEvents } = JSON.parse(trace.toString()) as {
    traceEvents: { name: string; pid: number; tid: number; tdur?: number; args?: { name?: string } }[];
  };
  const thread = ({ pid, tid }: { pid: number; tid: number }) => `${pid} ${tid}`;
  const mainThreads = new Set(
    traceEvents
      .filter(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain")
      .map(thread),
  );
  return traceEvents
    .filter((event) => event.name === "RunTask" && event.tdur !== undefined && mainThreads.has(thread(event)))
    .map(({ tdur }) => (tdur ?? 0) / 1000);
}
