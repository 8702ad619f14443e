import { GrpoError } from '../errors.js';

/** An answer of the server that is not 200, in the form that OpenAI's clients read. */
export class ApiError extends GrpoError {
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super('GRPO_SERVE', message);
  }

  get body(): object {
    const type = this.status < 500 ? 'invalid_request_error' : 'server_error';
    return { error: { message: this.message, type, param: this.param, code: codes[this.status] ?? null } };
  }
}

const codes: Record<number, string> = {
  401: 'invalid_api_key',
  404: 'not_found',
  413: 'request_too_large',
  429: 'queue_full',
  503: 'shutting_down',
};
