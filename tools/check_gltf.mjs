// Runs Khronos' glTF validator over files and prints what it finds.
//
//   npm install gltf-validator
//   node tools/check_gltf.mjs FILE.glb [FILE.gltf ...]
//
// The package is looked for where the command is run, then beside this file.
// Exit status: 0 no errors and no warnings, 1 some, 2 wrong usage.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

const SEVERITIES = ["error", "warning", "info", "hint"];

function loadValidator() {
  for (const base of [path.join(process.cwd(), "_"), import.meta.url]) {
    try {
      return createRequire(base)("gltf-validator");
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  console.error("gltf-validator is not installed: npm install gltf-validator");
  process.exit(2);
}

async function check(validator, file) {
  const bytes = new Uint8Array(await readFile(file));
  const report = await validator.validateBytes(bytes, {
    uri: path.basename(file),
    maxIssues: 1000,
    externalResourceFunction: async (uri) =>
      new Uint8Array(await readFile(path.resolve(path.dirname(file), decodeURIComponent(uri)))),
  });
  const { issues, info } = report;
  console.log(
    `${file}: ${issues.numErrors} errors, ${issues.numWarnings} warnings, ${issues.numInfos} infos, ` +
      `${issues.numHints} hints; ${bytes.length} bytes, ${info.totalVertexCount} vertices, ` +
      `${info.totalTriangleCount} triangles`,
  );
  for (const issue of issues.messages) {
    console.log(`  ${SEVERITIES[issue.severity]} ${issue.code} ${issue.pointer ?? ""}: ${issue.message}`);
  }
  return issues.numErrors + issues.numWarnings;
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error("usage: node check_gltf.mjs FILE...");
  process.exit(2);
}
const validator = loadValidator();
let found = 0;
for (const file of files) {
  try {
    found += await check(validator, file);
  } catch (error) {
    console.log(`${file}: ${error.message ?? error}`);
    found += 1;
  }
}
process.exit(found === 0 ? 0 : 1);
