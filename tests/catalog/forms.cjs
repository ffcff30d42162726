// Renders a form for each JSON Schema on stdin, {name: schema}:
// {name: {html, data: what an untouched form submits, warnings: what was written to the console}}
const { createElement } = require("react");
const { renderToString } = require("react-dom/server");
const { default: Form } = require("@rjsf/core");
const { getDefaultFormState } = require("@rjsf/utils");
const { customizeValidator } = require("@rjsf/validator-ajv8");
const { default: Ajv2020 } = require("ajv/dist/2020");

const schemas = JSON.parse(require("fs").readFileSync(0, "utf8"));
const validator = customizeValidator({ AjvClass: Ajv2020 });
const said = [];
console.error = console.warn = (...words) => said.push(words.map(String).join(" "));

const rendered = {};
for (const [name, schema] of Object.entries(schemas)) {
  const html = renderToString(createElement(Form, { schema, validator }));
  const data = getDefaultFormState(validator, schema, {}, schema);
  rendered[name] = { html, data, warnings: said.splice(0) };
}
process.stdout.write(JSON.stringify(rendered));
