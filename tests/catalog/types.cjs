// Writes a TypeScript module for each JSON Schema on stdin, {name: schema}, into the directory that is the argument.
const { writeFileSync, readFileSync } = require("fs");
const { join } = require("path");
const { compile } = require("json-schema-to-typescript");

const schemas = JSON.parse(readFileSync(0, "utf8"));
(async () => {
  for (const [name, schema] of Object.entries(schemas)) {
    writeFileSync(join(process.argv[2], `${name}.ts`), await compile(schema, name, { format: false }));
  }
})();
