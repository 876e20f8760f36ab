/** Reads `text/event-stream` from a response, which EventSource cannot do for a POST. */

/**
 * The events of a stream as they arrive.
 *
 * @param body a ReadableStream of bytes
 * @yields {{event: string, data: any}} data parsed as JSON
 */
export async function* readEvents(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/u);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // an aborted stream is cancelled already
  }
}

function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/u)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /u, ""));
  }
  return data.length > 0 ? { event, data: JSON.parse(data.join("\n")) } : null;
}
