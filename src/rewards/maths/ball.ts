/**
 * Complex numbers with an error radius: the true value lies within `error` of `re + im·i`. The radii cover rounding, so that two balls that
 * do not touch are proof of two different numbers. Functions return null where they are not defined or nothing useful is known.
 */
export interface Ball {
  readonly re: number;
  readonly im: number;
  readonly error: number;
}

type Result = Ball | null;

/** Relative rounding error granted to one elementary operation: a few units in the last place of a double. */
const rounding = 8 * Number.EPSILON;

export function ball(re: number, im = 0, error = 0): Result {
  const radius = error + rounding * (Math.abs(re) + Math.abs(im));
  return Number.isFinite(re) && Number.isFinite(im) && Number.isFinite(radius) ? { re, im, error: radius } : null;
}

export function magnitude(a: Ball): number {
  return Math.hypot(a.re, a.im);
}

export function distance(a: Ball, b: Ball): number {
  return Math.hypot(a.re - b.re, a.im - b.im);
}

export function addBalls(a: Ball, b: Ball): Result {
  return ball(a.re + b.re, a.im + b.im, a.error + b.error);
}

export function multiplyBalls(a: Ball, b: Ball): Result {
  const error = magnitude(a) * b.error + magnitude(b) * a.error + a.error * b.error;
  const terms = rounding * magnitude(a) * magnitude(b);
  return ball(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re, error + terms);
}

export function invertBall(a: Ball): Result {
  const size = magnitude(a);
  if (size <= 2 * a.error) return null;
  return ball(a.re / size / size, -a.im / size / size, a.error / size / (size - a.error) + rounding / size);
}

function exponential(a: Ball): Result {
  if (a.error > 1 || Math.abs(a.im) > 1e6) return null;
  const size = Math.exp(a.re);
  return ball(size * Math.cos(a.im), size * Math.sin(a.im), size * (2 * a.error + rounding * (1 + magnitude(a))));
}

/** The principal logarithm. Negative numbers have one only where the caller allows complex values. */
export function logarithm(a: Ball, complex: boolean): Result {
  const size = magnitude(a);
  if (size <= 2 * a.error || (!complex && a.re < 0)) return null;
  // Beside the cut along the negative axis the error could change the sign of the imaginary part.
  if (a.re < 0 && a.im !== 0 && Math.abs(a.im) <= a.error) return null;
  return ball(Math.log(size), Math.atan2(a.im, a.re), a.error / (size - a.error) + rounding);
}

/** A whole power by repeated squaring. */
export function wholePower(a: Ball, exponent: number): Result {
  let base: Result = exponent < 0 ? invertBall(a) : a;
  let result: Result = { re: 1, im: 0, error: 0 };
  for (let rest = Math.abs(exponent); rest > 0 && base && result; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = multiplyBalls(result, base);
    if (rest > 1) base = multiplyBalls(base, base);
  }
  return base && result;
}

/** `a ** b` through the logarithm. */
export function generalPower(a: Ball, b: Ball, complex: boolean): Result {
  if (a.re === 0 && a.im === 0 && a.error === 0) return b.re > b.error ? { re: 0, im: 0, error: 0 } : null;
  const log = logarithm(a, complex);
  const scaled = log && multiplyBalls(log, b);
  return scaled && exponential(scaled);
}

/** A real function of a real argument, with a bound on its slope near the argument. */
export function realFunction(a: Ball, f: (x: number) => number, slope: (x: number, error: number) => number): Result {
  if (a.im !== 0) return null;
  const value = f(a.re);
  return ball(value, 0, slope(a.re, a.error) * a.error + rounding * Math.abs(value));
}
