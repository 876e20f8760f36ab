/** node in_chromium.mjs PLAN: systems with onnxruntime-web, in one page; prints JSON. */

import { askPage } from "./chromium.mjs";

console.log(JSON.stringify(await askPage("page.html", JSON.parse(process.argv[2]))));
process.exit(0);
