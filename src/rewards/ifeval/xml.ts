const NAME = '[\\p{L}_:][\\p{L}\\p{N}\\p{M}_:.·-]*';
const ATTRIBUTE = `\\s+${NAME}\\s*=\\s*(?:"[^"<]*"|'[^'<]*')`;
const TAG = new RegExp(`<(/?)(${NAME})((?:${ATTRIBUTE})*)\\s*(/?)>`, 'uy');
/** What may stand outside of the root: comments, processing instructions (the declaration is one) and a document type. */
const SKIPPED = /<!--(?:(?!--).)*-->|<\?.*?\?>|<!DOCTYPE[^[>]*(?:\[[^\]]*\]\s*)?>/suy;
const TEXT = /[^<&]+|&(?:[a-z]+|#\d+|#x[0-9a-f]+);|<!\[CDATA\[.*?\]\]>/isuy;

/**
 * Whether a text is one XML element, with nothing but comments, instructions and white space around it: tags nest and close,
 * attributes are quoted and not repeated, no bare & or < stands in the text. Entities and document types are not resolved.
 */
export function isWellFormed(xml: string): boolean {
  const open: string[] = [];
  let roots = 0;
  let position = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = position;
    const match = pattern.exec(xml);
    if (match) position += match[0].length;
    return match;
  };
  while (position < xml.length) {
    if (take(SKIPPED)) continue;
    const tag = take(TAG);
    if (!tag) {
      const text = take(TEXT);
      if (!text || (open.length === 0 && text[0].trim() !== '')) return false;
      continue;
    }
    const [, closing, name, attributes, empty] = tag as unknown as [string, string, string, string, string];
    if (closing) {
      if (attributes || empty || open.pop() !== name) return false;
      continue;
    }
    if (repeats(attributes)) return false;
    if (open.length === 0 && ++roots > 1) return false;
    if (!empty) open.push(name);
  }
  return roots === 1 && open.length === 0;
}

function repeats(attributes: string): boolean {
  const names = [...attributes.matchAll(/([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')/gu)].map((match) => match[1]);
  return new Set(names).size < names.length;
}
