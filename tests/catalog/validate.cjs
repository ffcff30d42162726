// Compiles the JSON Schemas on stdin with Ajv in strict mode, and says which values each one takes:
// {name: {schema, values: [...]}} to {name: {error, valid: [...]}}
const { default: Ajv2020 } = require("ajv/dist/2020");
const { default: addFormats } = require("ajv-formats");

const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const answered = {};
for (const [name, { schema, values }] of Object.entries(asked)) {
  try {
    const ajv = new Ajv2020({ strict: true, discriminator: true, validateSchema: true });
    addFormats(ajv);
    const validate = ajv.compile(schema);
    answered[name] = { error: null, valid: values.map((value) => validate(value)) };
  } catch (error) {
    answered[name] = { error: error.message, valid: [] };
  }
}
process.stdout.write(JSON.stringify(answered));
