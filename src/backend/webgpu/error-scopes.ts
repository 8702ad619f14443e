const filters = ['validation', 'out-of-memory', 'internal'] as const;

/** Runs calls of the API. `error`: what it says against them, later; nothing of a device that is gone, which says so itself. */
export function inErrorScopes<T>(device: GPUDevice, calls: () => T): { result: T; error: Promise<GPUError | null> } {
  for (const filter of filters) device.pushErrorScope(filter);
  const pop = async () => {
    const errors = await Promise.all(filters.map(() => device.popErrorScope())).catch(() => []);
    return errors.find((error) => error !== null) ?? null;
  };
  try {
    const result = calls();
    return { result, error: pop() };
  } catch (error) {
    void pop();
    throw error;
  }
}
