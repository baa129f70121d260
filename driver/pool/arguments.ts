/** pg's ways of saying one thing: query(text), (text, values), (config), (config, values), each with a callback or a promise. */
import type pg from 'pg'

export interface Config extends pg.QueryConfig { [key: string]: unknown }
export type Callback = (error: Error | null | undefined, result?: unknown) => void

/** What pg reads of a config, and `reads` of ours. By name: a config may be an object of a class, whose text is a getter. */
const FIELDS = ['text', 'values', 'name', 'rowMode', 'types', 'queryMode', 'rows', 'portal', 'binary', 'query_timeout', 'reads'] as const

export const isSubmittable = (first: unknown): first is pg.Submittable => typeof (first as { submit?: unknown } | null | undefined)?.submit === 'function'

export function read(first: unknown, second: unknown, third: unknown): { config: Config; callback: Callback | undefined } {
  if (first === null || first === undefined) throw new TypeError('Client was passed a null or undefined query')
  const callback = [third, second, (first as { callback?: unknown }).callback].find((c): c is Callback => typeof c === 'function')
  const config = {} as Config
  if (typeof first === 'string') config.text = first
  else for (const field of FIELDS) if ((first as Config)[field] !== undefined) Object.assign(config, { [field]: (first as Config)[field] })
  if (second !== undefined && second !== null && typeof second !== 'function') config.values = second as unknown[]
  return { config, callback }
}

/** As pg takes it soonest: what is more than a text and its values it copies, property by property. */
export function sent(config: Config): [config: string | pg.QueryConfig, values?: unknown[] | undefined] {
  for (const field in config) if (field !== 'text' && field !== 'values') return [config]
  return typeof config.text === 'string' ? [config.text, config.values] : [config]
}

/** The promise itself, or undefined when a callback gets the answer. What a callback throws is nobody's answer: it ends the process as with pg. */
export function answer<T>(work: Promise<T>, callback: Callback | undefined, none: null | undefined = null): Promise<T> | undefined {
  if (!callback) return work
  work.then((result) => process.nextTick(callback, none, result), (error: Error) => process.nextTick(callback, error))
  return undefined
}
