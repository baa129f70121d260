/** pg's ways of saying one thing: query(text), (text, values), (config), (config, values), each with a callback or a promise. */
import type pg from 'pg'

export interface Config extends pg.QueryConfig { [key: string]: unknown }
export type Callback = (error: Error | null, result?: unknown) => void

export function read(first: unknown, second: unknown, third: unknown): { config: Config; callback: Callback | undefined } {
  if (first === null || first === undefined) throw new TypeError('Client was passed a null or undefined query')
  const callback = [third, second, (first as { callback?: unknown }).callback].find((c): c is Callback => typeof c === 'function')
  const config: Config = typeof first === 'string' ? { text: first } : { ...(first as Config) }
  delete config['callback']
  if (Array.isArray(second)) config.values = second
  return { config, callback }
}

/** The promise itself, or undefined when a callback gets the answer. */
export function answer<T>(work: Promise<T>, callback: Callback | undefined): Promise<T> | undefined {
  if (!callback) return work
  work.then((result) => callback(null, result), (error: Error) => callback(error))
  return undefined
}
