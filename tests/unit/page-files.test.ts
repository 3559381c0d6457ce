import { unzipSync } from "fflate";
import { describe, expect, it } from "vitest";
import { zip } from "../../www/page/download.ts";
import { sameContent } from "../../www/page/same.ts";

describe("zip", () => {
  it("holds every file under one folder, byte for byte", async () => {
    const bytes = Uint8Array.from({ length: 9_000_000 }, (_, index) => (index * 7919) % 251);
    const archive = await zip(
      [
        { name: "adapter_model.safetensors", blob: new Blob([bytes]) },
        { name: "heads/mood.safetensors", blob: new Blob(["head"]) },
        { name: "empty", blob: new Blob([]) },
      ],
      "merged-adapter",
    );
    const files = unzipSync(new Uint8Array(await archive.arrayBuffer()));
    expect(Object.keys(files)).toEqual([
      "merged-adapter/adapter_model.safetensors",
      "merged-adapter/heads/mood.safetensors",
      "merged-adapter/empty",
    ]);
    expect(
      Buffer.from(files["merged-adapter/adapter_model.safetensors"] ?? []).equals(Buffer.from(bytes)),
    ).toBe(true);
    expect(new TextDecoder().decode(files["merged-adapter/heads/mood.safetensors"])).toBe("head");
  });

  it("is the same for the same files", async () => {
    const make = async () => {
      const archive = await zip([{ name: "a", blob: new Blob(["x"]) }], "f");
      return Buffer.from(await archive.arrayBuffer()).toString("hex");
    };
    expect(await make()).toBe(await make());
  });
});

describe("sameContent", () => {
  const long = new Uint8Array(2_500_000).fill(1);
  const other = long.slice();
  other[2_400_000] = 2;

  it("is by bytes, not by name or size", async () => {
    expect(await sameContent(new File([long], "a"), new File([long], "b"))).toBe(true);
    expect(await sameContent(new File([long], "a"), new File([other], "a"))).toBe(false);
    expect(await sameContent(new File(["ab"], "a"), new File(["a"], "a"))).toBe(false);
  });
});
