/** The vocabulary of the lexer: which commands, words and Unicode signs mean what. */

/** Commands that change how something looks, not what it means. */
export const ignoredCommands = new Set(
  (
    'left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle displaystyle textstyle scriptstyle limits nolimits quad ' +
    'qquad mathbf boldsymbol bm vec hat bar tilde overline underline widehat mathit mathcal mathscr boxed fbox framebox cancel ' +
    'overrightarrow hspace phantom thinspace bf rm it'
  ).split(' '),
);

/** Commands whose argument is text: its letters make words, or units after a number. */
export const textCommands = new Set(
  'text textbf textit textrm textsf texttt textnormal mathrm mathsf mathtt mbox hbox operatorname emph'.split(' '),
);

/** LaTeX commands with another spelling of the same meaning. */
export const synonyms = new Map(
  Object.entries({
    dfrac: 'frac',
    tfrac: 'frac',
    cfrac: 'frac',
    dbinom: 'binom',
    tbinom: 'binom',
    asin: 'arcsin',
    acos: 'arccos',
    atan: 'arctan',
    cosec: 'csc',
    inf: 'infty',
    infinity: 'infty',
    Infinity: 'infty',
    oo: 'infty',
    varnothing: 'emptyset',
    varphi: 'phi',
    vartheta: 'theta',
    varepsilon: 'epsilon',
    lg: 'log',
    lvert: '|',
    rvert: '|',
    vert: '|',
    mid: '|',
    lbrace: '\\{',
    rbrace: '\\}',
    lbrack: '[',
    rbrack: ']',
    lparen: '(',
    rparen: ')',
    le: '<=',
    leq: '<=',
    leqslant: '<=',
    ge: '>=',
    geq: '>=',
    geqslant: '>=',
    ne: '!=',
    neq: '!=',
    lt: '<',
    gt: '>',
    approx: '≈',
    simeq: '≈',
    times: '*',
    cdot: '*',
    ast: '*',
    div: '/',
    colon: ':',
    degree: '°',
    circ: '°',
    lfloor: 'lfloor',
    to: 'to',
    rightarrow: 'to',
    plusmn: 'pm',
    union: 'cup',
    dollar: '$',
  }),
);

/** Names that are recognised without a backslash. */
export const functionNames = new Set(
  (
    'sin cos tan cot sec csc arcsin arccos arctan asin acos atan sinh cosh tanh ln log lg exp sqrt cbrt abs floor ceil frac dfrac tfrac binom ' +
    'pi infty infinity Infinity oo inf'
  ).split(' '),
);

export const greek = new Set(
  'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell'.split(
    ' ',
  ),
);

/** Words of one or two letters that are not products of variables. */
export const shortWords = new Set('no is of in to at on up if by it he we as an be do go my or so us am pm'.split(' '));

/** Short names of units, and endings of ordinals, which after a number are words, not products: `5cm`, `12th`. */
export const shortUnits = new Set(
  'mm cm dm km in ft yd mi mg kg lb lbs oz ml mL hr hrs min sec mph kph sq cu st nd rd th'.split(' '),
);

const unicode = new Map(
  Object.entries({
    '−': '-',
    '–': '-',
    '—': '-',
    '‐': '-',
    '×': '\\times ',
    '⋅': '\\cdot ',
    '·': '\\cdot ',
    '∙': '\\cdot ',
    '÷': '/',
    '∕': '/',
    '⁄': '/',
    π: '\\pi ',
    '√': '\\sqrt ',
    '∞': '\\infty ',
    '≤': '\\le ',
    '≥': '\\ge ',
    '≠': '\\ne ',
    '≈': '\\approx ',
    '±': '\\pm ',
    '∓': '\\mp ',
    '∪': '\\cup ',
    '∩': '\\cap ',
    '∈': '\\in ',
    '∅': '\\emptyset ',
    ℝ: '\\mathbb{R}',
    '∖': '\\setminus ',
    '→': '\\to ',
    '⟨': '\\langle ',
    '⟩': '\\rangle ',
    '½': '\\frac{1}{2}',
    '¼': '\\frac{1}{4}',
    '¾': '\\frac{3}{4}',
    '⅓': '\\frac{1}{3}',
    '⅔': '\\frac{2}{3}',
    '⅛': '\\frac{1}{8}',
    '⅕': '\\frac{1}{5}',
    θ: '\\theta ',
    α: '\\alpha ',
    β: '\\beta ',
    γ: '\\gamma ',
    λ: '\\lambda ',
    μ: '\\mu ',
    φ: '\\phi ',
    ω: '\\omega ',
    º: '°',
    '˚': '°',
    '′': "'",
    '’': "'",
    '“': '"',
    '”': '"',
    '。': '.',
    '、': ',',
    '\u00a0': ' ',
    '\u2009': ' ',
    '\u202f': ' ',
    '\u3000': ' ',
    '\u200b': '',
  }),
);

const superscripts = '⁰¹²³⁴⁵⁶⁷⁸⁹';

/** Replaces Unicode signs by LaTeX and removes LaTeX spacing between the digits of one number. */
export function normalizeSigns(source: string): string {
  return source
    .replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹]+/g, (run) => `^{${[...run].map((digit) => superscripts.indexOf(digit)).join('')}}`)
    .replace(/[^ -~]/g, (sign) => unicode.get(sign) ?? fullWidth(sign))
    .replace(/(\d)(?:\{,\}|,\\!|\\[,;: ]|~)(?=\d{3}(?!\d))/g, '$1')
    .replace(/\\\\|\\[,;:! ]|~/g, (spacing) => (spacing === '\\\\' ? spacing : ' '));
}

function fullWidth(sign: string): string {
  const code = sign.charCodeAt(0);
  return code >= 0xff01 && code <= 0xff5e ? String.fromCharCode(code - 0xfee0) : sign;
}
