import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { answersMatch, compareAnswers, extractAnswer, gradeAnswer, type Verdict } from '../../../src/rewards/maths.js';

type Row = readonly [a: string, b: string];

const equal: Record<string, readonly Row[]> = {
  numbers: [
    ['42', '42.0'],
    ['1,234', '1234'],
    ['1{,}234', '1234'],
    ['1\\,234\\,567', '1,234,567'],
    ['1 000 000', '1000000'],
    ['.5', '0.5'],
    ['007', '7'],
    ['-3', '−3'],
    ['+7', '7'],
    ['--5', '5'],
    ['0.\\overline{3}', '\\frac{1}{3}'],
    ['0.1\\overline{6}', '1/6'],
    ['0.\\overline{9}', '1'],
    ['1.2 \\times 10^{3}', '1200'],
    ['1.2e3', '1200'],
    ['1.2 x 10^3', '1200'],
    ['5E-2', '1/20'],
    ['3·10⁸', '300000000'],
    ['twenty-five', '25'],
    ['one hundred and two', '102'],
    ['2 million', '2,000,000'],
    ['1.5 billion', '1.5 \\times 10^9'],
    ['3 dozen', '36'],
    ['2^{10}', '1024'],
    ['2^{2024}', '4^{1012}'],
    ['2**5', '32'],
    ['5!', '120'],
    ['\\binom{5}{2}', '10'],
    ['{\\dbinom{10}{3}}', '120'],
    ['\\lfloor 3.7 \\rfloor', '3'],
    ['\\lceil -3.7 \\rceil', '-3'],
    ['|-5|', '5'],
    ['**72**', '72'],
    ['`72`', '72'],
    ['$72$', '72'],
    ['\\(72\\)', '72'],
    ['72.', '72'],
    ['１２３', '123'],
    ['\\boxed{5}', '5'],
    ['\\mathbf{12}', '12'],
    ['3 + 4', '7'],
  ],
  fractions: [
    ['\\frac{1}{2}', '0.5'],
    ['\\frac12', '1/2'],
    ['\\dfrac{3}{4}', '\\tfrac34'],
    ['\\frac1{12}', '1/12'],
    ['\\frac{1}2', '1/2'],
    ['-\\frac{2}{3}', '\\frac{-2}{3}'],
    ['\\frac{2}{-3}', '-2/3'],
    ['6/8', '3/4'],
    ['½', '0.5'],
    ['3½', '7/2'],
    ['3 1/2', '\\frac{7}{2}'],
    ['3\\frac{1}{2}', '3.5'],
    ['-3\\frac{1}{2}', '-3.5'],
    ['1\\frac12', '1.5'],
    ['\\frac{\\frac{1}{2}}{3}', '1/6'],
    ['\\cfrac{1}{1+\\cfrac{1}{2}}', '2/3'],
    ['\\left(\\frac{1}{2}\\right)^3', '1/8'],
    ['1/2 + 1/3', '5/6'],
  ],
  'units, currency and percent': [
    ['$5', '5'],
    ['\\$5', '$5.00'],
    ['$\\$5$', '5 dollars'],
    ['-$5', '-5'],
    ['€20', '20 euros'],
    ['50 cents', '$0.50'],
    ['$1.5 million', '1,500,000'],
    ['5 cm', '5'],
    ['5cm', '5 \\text{ cm}'],
    ['5 \\mathrm{~cm}', '5 cm'],
    ['100 cm', '1 m'],
    ['5 \\text{ m}', '500 cm'],
    ['5 cm^2', '5 square centimeters'],
    ['5\\text{ cm}^2', '5 cm²'],
    ['60 km/h', '60 kilometers per hour'],
    ['60 miles per hour', '60 mph'],
    ['90 minutes', '1.5 hours'],
    ['12 feet', '4 yards'],
    ['18 eggs', '18'],
    ['3 bolts of fabric', '3'],
    ['12 square units', '12'],
    ['18 sq cm', '18 cm²'],
    ['12th', '12'],
    ['5 dollars each', '$5'],
    ['50\\%', '0.5'],
    ['50%', '50'],
    ['50 percent', '50%'],
    ['12.5\\%', '\\frac{1}{8}'],
    ['30^\\circ', '30'],
    ['30^{\\circ}', '30°'],
    ['30 degrees', '30°'],
    ['180°', '\\pi'],
    ['\\frac{5\\pi}{2} \\text{ cm}', '2.5\\pi'],
    ['1011_2', '1011_{2}'],
    ['1011_2', '1011'],
    ['1011_2', '11'],
    ['1F_{16}', '31'],
    ['200%', '2'],
    ['x + 5%', 'x + 0.05'],
    ['30° + 15°', '\\pi/4'],
    ['\\cos 60°', '0.5'],
  ],
  'roots, powers and constants': [
    ['\\sqrt{8}', '2\\sqrt{2}'],
    ['\\sqrt2', '2^{1/2}'],
    ['\\frac{1}{\\sqrt{2}}', '\\frac{\\sqrt{2}}{2}'],
    ['\\frac{1}{1+\\sqrt{2}}', '\\sqrt{2}-1'],
    ['\\sqrt[3]{16}', '2\\sqrt[3]{2}'],
    ['\\sqrt[3]{-8}', '-2'],
    ['(-8)^{1/3}', '-2'],
    ['\\sqrt{12}+\\sqrt{27}', '5\\sqrt{3}'],
    ['\\sqrt{\\frac{3}{4}}', '\\frac{\\sqrt3}{2}'],
    ['sqrt(2)', '√2'],
    ['\\sqrt{3+2\\sqrt{2}}', '1+\\sqrt{2}'],
    ['\\sqrt{-4}', '2i'],
    ['i^2', '-1'],
    ['(1+i)^2', '2i'],
    ['\\frac{1}{i}', '-i'],
    ['\\frac{3+4i}{1-2i}', '-1+2i'],
    ['e^{i\\pi}', '-1'],
    ['2π', '\\pi \\cdot 2'],
    ['\\frac{\\pi}{3}', 'pi/3'],
    ['\\frac{\\pi}{2}', '0.5\\pi'],
    ['e^2', '\\exp(2)'],
    ['\\ln e^3', '3'],
    ['\\log_2 8', '3'],
    ['\\log_{10}{1000}', '3'],
    ['\\ln 8', '3\\ln 2'],
    ['\\sin 30^\\circ', '\\frac12'],
    ['\\cos\\frac{\\pi}{4}', '\\frac{\\sqrt{2}}{2}'],
    ['\\arctan 1', '\\frac{\\pi}{4}'],
    ['\\sin^{-1} 1', '\\pi/2'],
    ['-\\infty', '-infinity'],
    ['\\infty', '+\\infty'],
  ],
  algebra: [
    ['x^2+2x+1', '(x+1)^2'],
    ['2(x+3)', '6+2x'],
    ['(a+b)(a-b)', 'a^2-b^2'],
    ['\\frac{x^2-1}{x-1}', 'x+1'],
    ['\\frac{1}{x}+\\frac{1}{y}', '\\frac{x+y}{xy}'],
    ['x^{-1}', '1/x'],
    ['2xyz', 'z \\cdot y \\cdot 2x'],
    ['x_1 + x_2', 'x_{2}+x_{1}'],
    ['\\alpha\\beta', '\\beta \\alpha'],
    ['\\sqrt{4x+4}', '2\\sqrt{x+1}'],
    ['\\sqrt{x}\\sqrt{x}', 'x'],
    ['\\sqrt{xy}', '\\sqrt{x}\\sqrt{y}'],
    ['\\sqrt{x^2}', '|x|'],
    ['x\\sqrt[3]{x}', 'x^{4/3}'],
    ['2^{n+1}', '2\\cdot 2^n'],
    ['e^{2x}', '(e^x)^2'],
    ['\\sin^2 x + \\cos^2 x', '1'],
    ['\\sin 2x', '2\\sin x\\cos x'],
    ['\\tan x', '\\frac{\\sin x}{\\cos x}'],
    ['\\ln(x^2)', '2\\ln x'],
    ['\\log a + \\log b', '\\log(ab)'],
    ['\\frac{n(n+1)}{2}', '\\binom{2}{1}\\frac{n^2+n}{4}'],
    ['n!', 'n!'],
    ['\\vec{v}', 'v'],
    ['0.5x', '\\frac{x}{2}'],
    ['(x+y+z)^{1000}', '(x+y+z)^{999}(z+y+x)'],
    ['1/2x', '\\frac{1}{2}x'],
  ],
  'equations and inequalities': [
    ['x = 5', '5'],
    ['x=5', 'x = 5.0'],
    ['f(x) = x^2', 'x^2'],
    ['f(x) = 2x', 'y = 2x'],
    ['\\text{Area} = 12', '12'],
    ['Total cost = $45', '45'],
    ['y = 2x+1', '2x - y + 1 = 0'],
    ['2x+4y=6', 'x + 2y = 3'],
    ['y = 2x + 1', '2x + 1 = y'],
    ['\\frac{x}{2} + \\frac{y}{3} = 1', '3x+2y=6'],
    ['x + \\frac{1}{x} = 2', 'x^2 - 2x + 1 = 0'],
    ['y-\\sqrt{2}x = 0', '\\sqrt{2}y = 2x'],
    ['2+3=5', '5'],
    ['x = 2+3 = 5', '5'],
    ['x > 3', '3 < x'],
    ['x > 3', '(3, \\infty)'],
    ['x \\ge 3', '[3,\\infty)'],
    ['1 < x \\le 5', '(1,5]'],
    ['5 \\ge x > 1', '1 < x \\leq 5'],
    ['x \\in (1,5]', '(1,5]'],
    ['\\{x \\mid x > 2\\}', 'x>2'],
    ['2x + 2y < 4', 'x + y < 2'],
    ['x + y < 2', '-x - y > -2'],
    ['x \\neq 3', '3 \\ne x'],
    ['x<1 \\text{ or } x>2', '(-\\infty,1)\\cup(2,\\infty)'],
    ['\\mathbb{R}', '(-\\infty, \\infty)'],
  ],
  'lists, sets, tuples, intervals and matrices': [
    ['1, 2', '2, 1'],
    ['1 and 2', '1,2'],
    ['1, 2, and 3', '3,2,1'],
    ['\\{1,2,3\\}', '\\{3,2,1\\}'],
    ['{1, 2}', '\\left\\{1,2\\right\\}'],
    ['\\{1,1,2\\}', '\\{1,2\\}'],
    ['1,2', '\\{1,2\\}'],
    ['\\{5\\}', '5'],
    ['\\emptyset', '\\{\\}'],
    ['\\pm 3', '3, -3'],
    ['x = \\pm\\sqrt{2}', '-\\sqrt2, \\sqrt2'],
    ['1 \\pm \\sqrt{5}', '\\{1-\\sqrt5, 1+\\sqrt5\\}'],
    ['x=1, x=2', 'x = 1 \\text{ or } x = 2'],
    ['x = 1, 2', '1, 2'],
    ['x=1, y=2', 'y=2, x=1'],
    ['(1, 2)', '(1,2)'],
    ['\\left(\\frac12, 3\\right)', '(0.5, 3)'],
    ['\\langle 1, 2, 3\\rangle', '(1,2,3)'],
    ['(100,200)', '(100, 200)'],
    ['100,200', '100, 200'],
    ['[0, 1)', '\\left[0,1\\right)'],
    ['(0,1)\\cup(2,3)', '(2,3) ∪ (0,1)'],
    ['\\mathbb{R}\\setminus\\{0\\}', '(-\\infty,\\infty) \\setminus \\{0\\}'],
    ['\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}', '\\begin{bmatrix}1&2\\\\3&\\frac{8}{2}\\end{bmatrix}'],
    ['\\begin{array}{cc} 1 & 2 \\\\ 3 & 4 \\end{array}', '[[1,2],[3,4]]'],
    ['\\frac{1}{2}\\begin{pmatrix} 2 \\\\ 4 \\end{pmatrix}', '\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}'],
    ['3:4', '6:8'],
    ['3:4', '\\frac34'],
    ['1:2:3', '2:4:6'],
    ['0.5 \\text{ or } \\frac12', '1/2'],
    ['-2,100', '-2, 100'],
    ['(5)', '5'],
    ['[5]', '5'],
  ],
  'choices and words': [
    ['(B)', 'B'],
    ['B.', 'B'],
    ['\\text{(B)}', 'B'],
    ['option B', 'B'],
    ['(B) 42', 'B'],
    ['(B) 42', '42'],
    ['\\textbf{(C)}\\ 17', 'C'],
    ['(a)', 'A'],
    ['(E)', 'E'],
    ['(e)', 'e'],
    ['June 5', 'june 5.'],
    ['3:30 PM', '3:30 pm'],
    ['The answer is 5', 'the answer is 5'],
    ['blue', 'Blue.'],
    ['\\text{Tuesday}', 'tuesday'],
    ['the cat', 'Cat'],
    ['No', 'no.'],
    ['\\frac{1}{3} \\approx 0.333', '1/3'],
    ['\\approx 3.14', '3.14'],
    ['x \\approx 3.14', '3.14'],
    ['2.75 ≈ 3', '3'],
  ],
};

const different: readonly Row[] = [
  ['2', '200'],
  ['2', '2000%'],
  ['50', '0.5'],
  ['100000', '100001'],
  ['3.14', '3.14159'],
  ['3.14', '\\pi'],
  ['0.333', '1/3'],
  ['1.41421356237', '\\sqrt{3}'],
  ['12', '123'],
  ['5', '-5'],
  ['\\frac12', '\\frac13'],
  ['2\\frac{1}{2}', '1'],
  ['1/3.1', '1/3'],
  ['1.5e3', '1.5e4'],
  ['2 million', '2'],
  ['twenty', '21'],
  ['5 cm', '5 kg'],
  ['5 cm', '5 m'],
  ['5 cm', '6 cm'],
  ['5 cm', '5 cm^2'],
  ['$5', '€5'],
  ['$5 per hour', '$5'],
  ['5 apples', '6 oranges'],
  ['50%', '5'],
  ['30°', '\\pi/5'],
  ['1011_2', '12'],
  ['5m', '5'],
  ['5x', '5'],
  ['\\sqrt2', '\\sqrt3'],
  ['\\sqrt{2}', '1.4142'],
  ['\\sqrt{2}+\\sqrt{3}', '\\sqrt{5}'],
  ['\\sqrt{x^2}', 'x'],
  ['\\pi', '22/7'],
  ['e', '\\pi'],
  ['i', '-i'],
  ['3+4i', '3-4i'],
  ['\\ln 2', '\\ln 3'],
  ['\\log_2 8', '4'],
  ['\\sin x', '\\cos x'],
  ['e^{x}', 'e^{2x}'],
  ['2^n', 'n^2'],
  ['x+1', 'x+2'],
  ['x', 'y'],
  ['x', 'X'],
  ['x_1', 'x_2'],
  ['a+b', '+b'],
  ['(x+1)^2', 'x^2+1'],
  ['\\frac{1}{x+y}', '\\frac1x+\\frac1y'],
  ['x = 5', 'y = 5'],
  ['x = 5', '6'],
  ['x = 2+3 = 6', '6'],
  ['2+3=6', '6'],
  ['y = 2x+1', 'y = 2x-1'],
  ['x = 0', 'x^2 = 0'],
  ['x > 3', 'x \\ge 3'],
  ['x > 3', 'x < 3'],
  ['x > 3', 'y > 3'],
  ['x + y < 2', 'x + y > 2'],
  ['x > 3', '[3, \\infty)'],
  ['(1,2)', '[1,2]'],
  ['(1,2]', '[1,2)'],
  ['(1,2)', '(2,1)'],
  ['(1,2)', '\\{1,2\\}'],
  ['(1,2)', '1, 2'],
  ['(1,2)', '(1,2,3)'],
  ['\\{1,2\\}', '\\{1,3\\}'],
  ['1, 2', '1, 2, 3'],
  ['1, 1, 2', '1, 2, 2'],
  ['1, 2', '1'],
  ['\\pm 3', '3'],
  ['\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}', '\\begin{pmatrix} 1 & 2 \\end{pmatrix}'],
  ['\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}', '\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}'],
  ['\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}', '3'],
  ['3:4', '4:3'],
  ['1:2:3', '1:2'],
  ['\\infty', '-\\infty'],
  ['\\infty', '100'],
  ['\\emptyset', '0'],
  ['(B)', 'C'],
  ['(E)', 'e'],
  ['B', 'C'],
  ['(B) 42', 'C'],
  ['(B) 42', '43'],
  ['A', '5'],
  ['blue', 'red'],
  ['blue', '5'],
  ['yes', 'no'],
  ['\\text{Tuesday}', '\\text{Wednesday}'],
];

const undecided: readonly Row[] = [
  ['9^{9^9}', '1'],
  ['9^9^9', '9^9^9 + 1'],
  ['10^{100000}', '100^{50000}'],
  ['1/0', '0'],
  ['\\frac{1}{2-2}', '\\frac{1}{3-3}'],
  ['0^0', '1'],
  ['\\infty - \\infty', '0'],
  ['2\\infty', '\\infty'],
  ['\\int_0^1 x dx', '\\frac12'],
  ['\\sum_{k=1}^n k', 'n(n+1)/2'],
  ['\\sqrt{2}+\\ln 1', '1.41421356237309505'],
  ['\\log x', '\\ln x'],
  ['n!', 'n \\cdot (n-1)!'],
  ['5 eggs', '5 apples'],
  ['(1,3)\\cup(2,4)', '(1,4)'],
  ['\\mathbb{R}\\setminus\\{0\\}', '(-\\infty,0)\\cup(0,\\infty)'],
  ['\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}', '(1,2)'],
  ['x=1, y=2', '(1,2)'],
  ['x=1, y=2', '1, 2'],
  ['x > 1 \\text{ and } x < 5', '(1,5)'],
  ['x + y = 8', '8'],
  ['3 4', '12'],
  ['5 \\pmod 7', '12 \\pmod 7'],
  ['June 5', '5'],
  ['\\frac{1}', '1'],
  ['(1,2', '(1,2)'],
  ['???', '5'],
  ['|2', '2|'],
  ['\\int X', '\\int x'],
  ['', ''],
  ['   ', '5'],
  ['\\begin{cases} 1 \\\\ 2 \\end{cases}', '1, 2'],
];

/** Both ways round, because a comparison has no direction. */
function expectVerdict([a, b]: Row, verdict: Verdict) {
  expect([compareAnswers(a, b), compareAnswers(b, a)]).toEqual([verdict, verdict]);
}

for (const [subject, rows] of Object.entries(equal)) {
  describe(`equal ${subject}`, () => {
    it.each(rows)('%s = %s', (...row) => expectVerdict(row, 'equal'));
  });
}

describe('different answers', () => {
  it.each(different)('%s is not %s', (...row) => expectVerdict(row, 'different'));
});

describe('undecided answers', () => {
  it.each(undecided)('%s against %s', (...row) => expectVerdict(row, 'undecided'));
});

describe('a decimal reference', () => {
  const matches = (answer: string, reference: string) => answersMatch(`\\boxed{${answer}}`, reference);

  it.each([
    ['\\frac{1}{3}', '0.333'],
    ['\\sqrt{2}', '1.414'],
    ['2\\pi', '6.28'],
    ['\\frac{100\\pi}{3} \\text{ cm}', '104.72 cm'],
    ['\\frac{16}{3}', '5.33'],
    ['\\frac{1}{3} \\approx 0.33', '0.333'],
  ])('accepts the exact %s for %s', (answer, reference) => {
    expect(matches(answer, reference)).toBe(true);
  });

  it.each([
    ['\\frac{1}{3}', '0.334'],
    ['\\frac{1}{3}', '0.33'],
    ['\\sqrt{2}', '1.415'],
    ['0.3333', '0.333'],
    ['3.14159', '3.14'],
    ['\\frac{17}{16}', '1.06'],
    ['2.54', '2.5'],
    ['0.333', '\\frac{1}{3}'],
    ['1.414', '\\sqrt{2}'],
  ])('does not accept %s for %s', (answer, reference) => {
    expect(matches(answer, reference)).toBe(false);
  });
});

describe('extractAnswer', () => {
  it.each([
    ['So $x = \\boxed{42}$.', '42'],
    ['First \\boxed{1}, then \\boxed{2}.', '2'],
    ['\\boxed{\\frac{1}{2}}', '\\frac{1}{2}'],
    ['\\boxed{\\text{a } \\{1, 2\\}}', '\\text{a } \\{1, 2\\}'],
    ['\\fbox{7} is it', '7'],
    ['\\boxed 5 is it', '5'],
    ['\\boxed{x = \\boxed{3}}', '3'],
    ['\\boxed{3}. Put your answer in \\boxed{}.', '3'],
    ['\\boxed{3} and then \\boxed{4', '3'],
    ['The answer is 9. \\boxed{8}', '8'],
    ['<think>\\boxed{3}</think>The answer is 7.', '7'],
    ['<think>a</think>1<think>2</think>3', '3'],
    ['<think>so it is \\boxed{3}', null],
    ['<think>so it is 3</think>', null],
    ['5 + 5 = 10\n#### 10', '10'],
    ['#### 1,234 dollars', '1,234 dollars'],
    ['#### Step 1: add\n2 + 3 = 5\n#### Answer: 5', '5'],
    ['#### Step 1: add\nThe answer is 6.', '6'],
    ['<answer>17</answer>', '17'],
    ['<answer>1</answer> <answer>2</answer>', '2'],
    ['\\boxed{1} <answer>2</answer>', '2'],
    ['<answer>so \\boxed{2}</answer> 3', '2'],
    ['<answer>\nThe total is 5 + 6, which makes 11 in all.\n</answer>', '11'],
    ['<answer>Paris</answer>', 'Paris'],
    ['<answer></answer> It is 4', '4'],
    ['The answer is 42.', '42'],
    ['The answer is 42 because 6*7=42.', '42'],
    ['The answer is $1,234.00.', '$1,234.00'],
    ['The final answer is $\\frac{3}{4}$. I hope it is correct.', '$\\frac{3}{4}$'],
    ['Final Answer:\n\n**12**', '12'],
    ['**Answer:** (B) because 3 > 2', '(B)'],
    ['The correct answer is option C.', 'option C'],
    ['The answer to the question is x = 3.', 'x = 3'],
    ['The answer is 5. Let me check that the answer is correct.', '5'],
    ['The answer is Paris.', 'Paris'],
    ['The answer is therefore $18.', '$18'],
    ['The answer is on the line below:\n\nso it is 42', '42'],
    ['The answer is approximately equal to 3.5 million people.', '3.5 million people'],
    ['答案是 12。', '12'],
    ['Answer:\n\\[\n\\frac{1}{2}\n\\]', '\\frac{1}{2}'],
    ['She has 3 apples and eats 1, so 2 are left.', '2'],
    ['It costs $1,250.50 in all', '$1,250.50'],
    ['The probability is 3/4.', '3/4'],
    ['So they sold 3.5 million of them.', '3.5 million'],
    ['So it is -7.', '-7'],
    ['10-5', '10-5'],
    ['We get 10 - 5 in the end', '5'],
    ['pages 10-15', '15'],
    ['Thus the area is $\\frac{3\\pi}{4}$.', '\\frac{3\\pi}{4}'],
    ['x^2 + 1', 'x^2 + 1'],
    ['(B)', '(B)'],
    ['Paris', 'Paris'],
    ['I do not know how one would even begin to solve this', null],
    ['', null],
  ])('finds in %j', (text, answer) => {
    expect(extractAnswer(text)?.replace(/^\*+|\*+$/g, '') ?? null).toBe(answer);
  });

  it('does not accept a reference that only occurs in the text', () => {
    expect(answersMatch('I thought of 12, but the answer is 13.', '12')).toBe(false);
    expect(answersMatch('\\boxed{123}', '12')).toBe(false);
  });

  it('reports what was taken for the answer', () => {
    expect(gradeAnswer('The answer is 42.', '42')).toEqual({ verdict: 'equal', answer: '42' });
    expect(gradeAnswer('\\boxed{\\int f}', '42')).toEqual({ verdict: 'undecided', answer: '\\int f' });
    expect(gradeAnswer('', '42')).toEqual({ verdict: 'different', answer: null });
  });
});

const gsm8k = path.resolve(import.meta.dirname, '../../../../shared/data/gsm8k/test.jsonl');

describe.skipIf(!existsSync(gsm8k))('GSM8K', () => {
  const formats: ((answer: string, grouped: string) => string)[] = [
    (answer) => `So the total is \\boxed{${answer}}.`,
    (_, grouped) => `We get $\\boxed{${grouped}}$ in 3 steps.`,
    (answer) => `\\boxed{\\$${answer}}`,
    (answer) => `\\[ \\boxed{${answer} \\text{ dollars}} \\]`,
    (answer) => `Some 5 steps.\n#### ${answer}`,
    (_, grouped) => `#### ${grouped}\n`,
    (_, grouped) => `The answer is $${grouped}.00.`,
    (answer) => `The answer is ${answer}. That took 2 steps.`,
    (answer) => `The answer is: **${answer} apples** because 1 + 1 = 2.`,
    (answer) => `Therefore, the final answer is $${answer}$.`,
    (answer) => `<think>maybe 99999</think><answer>${answer}</answer>`,
    (_, grouped) => `<answer>\n$${grouped}\n</answer>`,
    (_, grouped) => `<answer>She makes ${grouped} dollars every day at the farmers' market, which is a lot.</answer>`,
    (answer) => `In the end there are **${answer}**`,
    (_, grouped) => `She pays **$${grouped}** in total.`,
    (answer) => answer,
    (_, grouped) => `${grouped} eggs`,
    (answer) => `x = ${answer}`,
    (answer) => `3 friends pay 2 each and so on, which makes ${answer}.`,
  ];
  const solutions = existsSync(gsm8k)
    ? readFileSync(gsm8k, 'utf8')
        .trim()
        .split('\n')
        .map((line) => (JSON.parse(line) as { answer: string }).answer)
    : [];

  it('has all its 1319 answers', () => {
    expect(solutions).toHaveLength(1319);
  });

  it.each(formats.map((format) => [format('12345', '12,345'), format] as const))(
    'is matched, and refuted, as %j',
    (_, format) => {
      const missed: string[] = [];
      const accepted: string[] = [];
      for (const solution of solutions) {
        const label = /#### (.*)$/.exec(solution)![1]!;
        const answer = BigInt(label.replaceAll(',', ''));
        const write = (value: bigint) => format(String(value), String(value).replace(/\B(?=(\d{3})+$)/g, ','));
        if (!answersMatch(write(answer), label)) missed.push(write(answer));
        if (!answersMatch(write(answer), solution)) missed.push(write(answer));
        for (const wrong of [answer + 1n, answer * 10n + 1n, -answer - 1n]) {
          if (answersMatch(write(wrong), label)) accepted.push(write(wrong));
        }
      }
      expect({ missed, accepted }).toEqual({ missed: [], accepted: [] });
    },
  );
});

describe('hostile input', () => {
  const size = 1_000_000;
  /** Milliseconds on a busy machine. What is quadratic in a megabyte takes hours. */
  const limit = 5000;
  const texts: Record<string, string> = {
    'a megabyte of a letter': 'a'.repeat(size),
    'a megabyte of digits': '7'.repeat(size),
    'open braces': '{'.repeat(size),
    'closed braces': '}'.repeat(size),
    backslashes: '\\'.repeat(size),
    'unclosed boxes': '\\boxed{'.repeat(size / 7),
    'nested boxes': `${'\\boxed{'.repeat(size / 10)}1${'}'.repeat(size / 10)}`,
    'a huge box': `\\boxed{${'1+'.repeat(size / 2)}1}`,
    headings: '#'.repeat(size),
    'headings on lines': '####\n'.repeat(size / 5),
    phrases: 'the answer is '.repeat(size / 14),
    'the word answer': 'answer '.repeat(size / 7),
    'display maths': '\\['.repeat(size / 2),
    'dollar signs': '$'.repeat(size),
    'commas and digits': '1,234'.repeat(size / 5),
    'slashes and digits': '1/'.repeat(size / 2),
    spaces: ' '.repeat(size),
    backticks: `${'`'.repeat(size)}x`,
    tags: '<answer>'.repeat(size / 8) + '</answer>'.repeat(size / 9),
    thinking: '<think></think>'.repeat(size / 15),
    emoji: '🎲'.repeat(size / 2),
    'lone surrogates': '\ud800'.repeat(size),
    'combining marks': `e${'\u0301'.repeat(size)}`,
    nulls: '\u0000'.repeat(size),
  };

  it.each(Object.entries(texts))('of %s is done in bounded time', (_, text) => {
    const start = performance.now();
    expect(answersMatch(text, '42')).toBe(false);
    expect(answersMatch('42', text)).toBe(false);
    expect(compareAnswers(text, '42')).not.toBe('equal');
    expect(performance.now() - start).toBeLessThan(limit);
  });

  const answers: Record<string, string> = {
    'towers of powers': `${'9^'.repeat(300)}9`,
    signs: `${'-'.repeat(1500)}1`,
    roots: `${'\\sqrt'.repeat(300)}2`,
    functions: `${'\\sin '.repeat(300)}2`,
    bars: '|'.repeat(1500),
    brackets: `${'('.repeat(900)}1${')'.repeat(900)}`,
    fractions: `${'\\frac{1}{1+'.repeat(100)}x${'}'.repeat(100)}`,
    'short fractions': `${'\\frac'.repeat(300)}1`,
    'mixed fractions': '1\\frac'.repeat(200),
    'a product of sums': '(x+y+1)'.repeat(200),
    'a product of many variables': [...'abcdfghjklmnopqrstuvwxyz'].map((c) => `(${c}+1)`).join(''),
    'a sum of reciprocals': Array.from({ length: 150 }, (_, k) => `\\frac1{x+${k}}`).join('+'),
    'a sum of fractions of huge numbers': Array.from({ length: 100 }, (_, k) => `\\frac{1}{${k + 3}^{4000}}`).join('+'),
    'a sum of huge powers': `${'7^{5000}+'.repeat(150)}1`,
    'a huge exponent': `2^{${'9'.repeat(1000)}}`,
    'a huge decimal exponent': `1e${'9'.repeat(1000)}`,
    'a huge factorial': '1000000!',
    'factorials of factorials': `9${'!'.repeat(500)}`,
    'a root of a huge number': `\\sqrt{${'9'.repeat(900)}}`,
    'a long list': Array.from({ length: 400 }, (_, k) => k).join(','),
    'a list of roots': Array.from({ length: 60 }, (_, k) => `\\sqrt{\\sqrt{${k}}+\\ln ${k}}`).join(','),
    'a long number': '8'.repeat(1900),
    'open environments': '\\begin{pmatrix}'.repeat(100),
    ampersands: `\\begin{pmatrix}${'&'.repeat(1500)}\\end{pmatrix}`,
    'text commands': '\\text{'.repeat(300),
    'quotes and stars': '*`"'.repeat(600),
    words: 'two hundred '.repeat(160),
  };

  it.each(Object.entries(answers))('of %s is compared in bounded time', (_, answer) => {
    const start = performance.now();
    expect(compareAnswers(answer, `${answer} `)).toBe('equal');
    expect(compareAnswers(answer, `1 + ${answer}`)).not.toBe('equal');
    expect(compareAnswers(`${answer} + x - x`, answer)).not.toBe('different');
    expect(performance.now() - start).toBeLessThan(limit);
  });
});

describe('properties', () => {
  const pieces = fc.constantFrom(
    ...'0 1 2 3 12 1,234 0.5 .5 x y e i \\pi + - * / ^ = < > ( ) [ ] { } \\{ \\} , ; : | ! % $ \\$ & \\\\ \\frac \\sqrt \\pm \\cup \\in \\text{ cm} \\boxed{ #### <answer> </answer> <think> answer is and or A B \\infty \\le \\approx ° \\sin \\log _ \\begin{pmatrix} \\end{pmatrix} \\left \\right . π ½ \n'.split(
      ' ',
    ),
  );
  const noise = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.array(pieces, { maxLength: 25 }).map((parts) => parts.join('')),
    fc.array(pieces, { maxLength: 25 }).map((parts) => parts.join(' ')),
  );

  it('no text throws, and comparison is symmetric', () => {
    fc.assert(
      fc.property(noise, noise, (a, b) => {
        const verdict = compareAnswers(a, b);
        expect(['equal', 'different', 'undecided']).toContain(verdict);
        expect(compareAnswers(b, a)).toBe(verdict);
        const { answer, verdict: grade } = gradeAnswer(a, b);
        expect(answersMatch(a, b)).toBe(grade === 'equal');
        expect(answer).toBe(extractAnswer(a));
      }),
      { numRuns: 3000 },
    );
  });

  it('every answer equals itself, and never differs from itself in spacing', () => {
    fc.assert(
      fc.property(noise, (a) => {
        fc.pre(a.trim() !== '');
        expect(compareAnswers(a, a)).toBe('equal');
        expect(compareAnswers(a, ` ${a}\n`)).toBe('equal');
      }),
      { numRuns: 1000 },
    );
  });

  const integer = fc.integer({ min: -100_000, max: 100_000 });
  const positive = fc.integer({ min: 1, max: 2000 });

  /** Spellings of num/den; each takes the numerator and the denominator. */
  const spellings: ((num: number, den: number) => string)[] = [
    (num, den) => `${num}/${den}`,
    (num, den) => `\\frac{${num}}{${den}}`,
    (num, den) => `-\\dfrac{${-num}}{${den}}`.replace('{--', '{-').replace('{-0}', '{0}'),
    (num, den) => `\\left(\\frac{${3 * num}}{${3 * den}}\\right)`,
    (num, den) => `$${num} \\div ${den}$`,
    (num, den) => `${num} \\cdot ${den}^{-1}`,
    (num, den) => `x = \\tfrac{${num}}{${den}}`,
    (num, den) => `\\boxed{${num}/${den}}`,
    (num, den) => (num > den ? `${Math.floor(num / den)} + \\frac{${num % den}}{${den}}` : `${num}/${den}`),
    (num, den) => `\\frac{${100 * num}}{${den}}\\%`,
    (num, den) => `\\sqrt{${num ** 2}}/${den} ${num < 0 ? '\\cdot (-1)' : ''}`,
  ];
  const spelling = fc.constantFrom(...spellings);

  it('a rational matches itself in every spelling', () => {
    fc.assert(
      fc.property(integer, positive, spelling, spelling, (num, den, first, second) => {
        expect(compareAnswers(first(num, den), second(num, den))).toBe('equal');
      }),
      { numRuns: 2000 },
    );
  });

  it('unequal rationals differ in every spelling', () => {
    fc.assert(
      fc.property(integer, positive, integer, positive, spelling, spelling, (p, q, r, s, first, second) => {
        // A percent sign may be left out, so that values apart by a factor of 100 may match.
        fc.pre(
          ![1, 100, 0.01].some(
            (factor) => BigInt(p) * BigInt(s) * 100n === BigInt(Math.round(factor * 100)) * BigInt(r) * BigInt(q),
          ),
        );
        expect(compareAnswers(first(p, q), second(r, s))).toBe('different');
      }),
      { numRuns: 2000 },
    );
  });

  it('decimals match their fractions and no neighbour', () => {
    fc.assert(
      fc.property(fc.integer({ min: -1e9, max: 1e9 }), fc.integer({ min: 1, max: 6 }), (digits, places) => {
        const sign = digits < 0 ? '-' : '';
        const text = String(Math.abs(digits)).padStart(places + 1, '0');
        const decimal = `${sign}${text.slice(0, -places)}.${text.slice(-places)}`;
        const fraction = `\\frac{${digits}}{${10 ** places}}`;
        expect(compareAnswers(decimal, fraction)).toBe('equal');
        expect(compareAnswers(`${decimal}00`, decimal)).toBe('equal');
        expect(compareAnswers(`${decimal}1`, fraction)).toBe('different');
        expect(compareAnswers(decimal, `\\frac{${digits + 1}}{${10 ** places}}`)).toBe('different');
      }),
    );
  });

  it('a factored polynomial matches its expansion and no other', () => {
    const root = fc.integer({ min: -30, max: 30 });
    const term = (coefficient: number, power: string) =>
      `${coefficient < 0 ? '-' : '+'} ${Math.abs(coefficient)}${power}`;
    fc.assert(
      fc.property(root, root, root, (a, b, c) => {
        const factored = `(x ${term(a, '')})(x ${term(b, '')})(x ${term(c, '')})`;
        const expand = (last: number) =>
          `x^3 ${term(a + b + c, 'x^2')} ${term(a * b + a * c + b * c, 'x')} ${term(last, '')}`;
        expect(compareAnswers(factored, expand(a * b * c))).toBe('equal');
        expect(compareAnswers(factored, expand(a * b * c + 1))).toBe('different');
        expect(compareAnswers(`y = ${factored}`, `${expand(a * b * c)} - y = 0`)).toBe('equal');
      }),
    );
  });

  it('lists and sets match in any order, tuples only in theirs', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: -99, max: 99 }), { minLength: 2, maxLength: 8 }), (items) => {
        const reversed = [...items].reverse();
        expect(compareAnswers(items.join(', '), reversed.join(', '))).toBe('equal');
        expect(compareAnswers(`\\{${items}\\}`, `\\{${reversed}\\}`)).toBe('equal');
        expect(compareAnswers(`(${items})`, `(${reversed})`)).toBe('different');
        expect(compareAnswers(`\\{${items}\\}`, `\\{${[...items.slice(1), 100]}\\}`)).toBe('different');
      }),
    );
  });
});
