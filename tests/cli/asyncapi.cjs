// Parses the AsyncAPI document on stdin; answers what AsyncAPI's own tool finds wrong, and the channels that it found.
const { Parser } = require("@asyncapi/parser");

new Parser().parse(require("fs").readFileSync(0, "utf8")).then(({ document, diagnostics }) => {
  const found = (document?.channels().all() ?? []).map((channel) => [
    channel.address(),
    Object.fromEntries(channel.messages().all().map((each) => [each.id(), each.payload().json().title ?? null])),
  ]);
  process.stdout.write(JSON.stringify({ diagnostics, channels: Object.fromEntries(found) }));
});
