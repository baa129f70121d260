/**
 * What a check of `doctor` is made of: a finding, with the one sentence that puts it right, and how findings are
 * come by.
 */
import type { Exam, Inside } from './examine.ts'
import type { Survey } from './survey.ts'

export type Level = 'note' | 'warning' | 'error'
export interface Finding {
  readonly level: Level
  readonly replica: string | null
  readonly says: string
  readonly cure: string
}
export interface Examined {
  readonly survey: Survey
  readonly exams: readonly Exam[]
  readonly most_log_bytes: number
}
export type Check = (all: Examined) => Finding[]

export const finding = (level: Level, replica: string | null, says: string, cure: string): Finding => ({
  level,
  replica,
  says,
  cure,
})
export const each =
  (look: (exam: Exam) => (Finding | false)[]): Check =>
  ({ exams }) =>
    exams.flatMap(look).filter((f) => f !== false)
export const within = (look: (inside: Inside, exam: Exam) => (Finding | false)[]): Check =>
  each((e) => (e.quorum ? look(e.quorum, e) : []))
export const value = (e: Exam, name: string): string => e.settings[name]?.value ?? ''

/** Who says what, if not all say the same: "a, b: x; c: y". */
export function difference(exams: readonly Exam[], what: (e: Exam) => string | undefined): string | undefined {
  const groups = new Map<string, string[]>()
  for (const e of exams) {
    const said = what(e)
    if (said !== undefined) groups.set(said, [...(groups.get(said) ?? []), e.name])
  }
  return groups.size < 2 ? undefined : [...groups].map(([said, names]) => `${names.join(', ')}: ${said}`).join('; ')
}
export function unequal(level: Level, what: string, pick: (e: Exam) => string | undefined, cure: string): Check {
  return ({ exams }) => {
    const said = difference(exams, pick)
    return said === undefined ? [] : [finding(level, null, `${what} (${said})`, cure)]
  }
}

export const inConfig = (line: string, restart = false): string =>
  `Put \`${line}\` into its postgresql.conf and ${restart ? 'restart' : 'reload'} it.`

export function reset(e: Exam, name: string): string {
  const source = e.settings[name]?.source ?? ''
  const first = name === 'default_transaction_read_only' ? 'SET default_transaction_read_only = off; ' : ''
  if (source === 'database') return `There: \`${first}ALTER DATABASE "${e.database}" RESET ${name}\`.`
  if (source === 'user') return `There: \`${first}ALTER ROLE "${e.role}" RESET ${name}\`.`
  if (source === 'database user')
    return `There: \`${first}ALTER ROLE "${e.role}" IN DATABASE "${e.database}" RESET ${name}\`.`
  if (source === 'client') return 'Take it out of the url.'
  return `Take ${name} out of its postgresql.conf (or \`ALTER SYSTEM RESET ${name}\`) and reload it.`
}
