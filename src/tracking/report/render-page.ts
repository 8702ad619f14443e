import { readFile } from 'node:fs/promises';

/** The files of a page. `page` has a place for the title, the style, the data and the script. */
export interface PageParts {
  page: URL;
  styles: readonly URL[];
  /** Modules that import only from each other, in the order of their imports. */
  scripts: readonly URL[];
}

/** One self-contained page from its parts and the data that its script draws. */
export async function renderPage(parts: PageParts, title: string, data: unknown): Promise<string> {
  const read = (file: URL) => readFile(file, 'utf8');
  const page = await read(parts.page);
  const replacements: Record<string, string> = {
    '{title}': escapeHtml(title),
    '/* {style} */': (await Promise.all(parts.styles.map(read))).join('\n'),
    '"{data}"': escapeJson(JSON.stringify(data)),
    '/* {script} */': joinModules(await Promise.all(parts.scripts.map(read))),
  };
  return page.replace(
    /\{title\}|\/\* \{style\} \*\/|"\{data\}"|\/\* \{script\} \*\//g,
    (found) => replacements[found]!,
  );
}

/** One module out of several that import from each other: their names share one scope, so the import lines can go. */
function joinModules(modules: readonly string[]): string {
  return modules.map((text) => text.replace(/^import [^;]+;\n/gm, '').replace(/^export /gm, '')).join('\n');
}

/** JSON that cannot end the script element it stands in, nor open a comment there. */
function escapeJson(json: string): string {
  return json.replaceAll('<', '\\u003c').replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029');
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
