// Fetches what vendor.json names from npm, writes the files beside it and their hashes into it. Run by `make vendor`.
import {execFileSync} from "node:child_process";
import {createHash} from "node:crypto";
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from "node:fs";
import {tmpdir} from "node:os";
import {join} from "node:path";
import {gzipSync} from "node:zlib";

const here = import.meta.dirname;
const list = JSON.parse(readFileSync(join(here, "vendor.json"), "utf8"));
const tmp = mkdtempSync(join(tmpdir(), "vendor-"));
for (const p of list) {
  const tgz = execFileSync("npm", ["pack", "--silent", `${p.name}@${p.version}`], {cwd: tmp, encoding: "utf8"}).trim().split("\n").pop();
  for (const f of p.files) {
    let data = execFileSync("tar", ["xzOf", tgz, `package/${f.from}`], {cwd: tmp, maxBuffer: 1 << 26});
    if (f.to.endsWith(".gz")) data = gzipSync(data, {level: 9});
    f.sha256 = createHash("sha256").update(data).digest("hex");
    writeFileSync(join(here, f.to), data);
  }
}
rmSync(tmp, {recursive: true});
writeFileSync(join(here, "vendor.json"), JSON.stringify(list, null, 2) + "\n");
