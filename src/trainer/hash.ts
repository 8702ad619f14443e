import type { GRPOConfig, SFTConfig } from './config.js';

/** SHA-256 of a text, in hexadecimal digits. */
export async function hashText(text: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** SHA-256 of all options but for where the run is kept. */
export async function hashConfig(config: GRPOConfig | SFTConfig): Promise<string> {
  return hashText(JSON.stringify({ ...config, outputDir: null }));
}
