/** Who says what, and who is in the minority. Pure: what was asked, and when, is verify's business. */
import { majority } from '../protocol/quorum.ts'

/** text null: it is not there. */
export interface Voice {
  readonly text: string | null
  readonly on: readonly string[]
}
export interface Finding {
  /** What kind of thing: 'row', 'trigger', 'chain', 'changeset', … */
  readonly kind: string
  /** Its name: a table for a row, else the object's own. */
  readonly object: string
  /** Of a row: its primary key as one reads it, "id=42". */
  readonly key?: string
  /** In words, about `replicas`. */
  readonly says: string
  /** Who is wrong: the minority, or by their own evidence. Empty: no majority of all members agrees. */
  readonly replicas: readonly string[]
  readonly voices: readonly Voice[]
  /** Of a row: the columns that differ. */
  readonly columns?: readonly { readonly column: string; readonly voices: readonly Voice[] }[]
  /** Of a row that a majority agrees on: what is needed to put it right. */
  readonly cure?: { readonly key: readonly string[]; readonly n: number }
}

export function voicesOf(values: ReadonlyMap<string, string | null>): Voice[] {
  const groups = new Map<string | null, string[]>()
  for (const [who, text] of values) groups.set(text, [...(groups.get(text) ?? []), who])
  return [...groups].map(([text, on]) => ({ text, on })).sort((a, b) => b.on.length - a.on.length)
}

/** undefined: no strict majority of all `members` says one thing, whoever was silent. */
export const chosen = (voices: readonly Voice[], members: number): Voice | undefined =>
  voices.find((v) => v.on.length >= majority(members))

/** Judges one thing that should be equal; undefined when it is. */
export function judge(
  kind: string,
  object: string,
  values: ReadonlyMap<string, string | null>,
  members: number,
  what = 'another one',
): Finding | undefined {
  const voices = voicesOf(values)
  if (voices.length < 2) return undefined
  const most = chosen(voices, members)
  const odd = most ? voices.filter((v) => v !== most) : []
  const says = !most
    ? 'differs, and no majority agrees on it'
    : odd.every((v) => v.text === null)
      ? 'is missing'
      : most.text === null
        ? 'is there only'
        : `is ${what}`
  return { kind, object, says, replicas: odd.flatMap((v) => v.on), voices }
}

/** The postgres text of an array, as keys come: {a,"b c",NULL} → its elements. */
export function elements(array: string): string[] {
  return [...array.slice(1, -1).matchAll(/"((?:[^"\\]|\\.)*)"|([^,]+)/gs)].map((m) =>
    m[1] !== undefined ? m[1].replace(/\\(.)/gs, '$1') : (m[2] ?? ''),
  )
}
