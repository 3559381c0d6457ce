/** The script of library.html: hands the package's browser entry to `page.evaluate`. */
import * as library from "../../../www/lib/index.ts";

declare global {
  var iteris: typeof library;
}

globalThis.iteris = library;
