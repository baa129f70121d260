/**
 * How the commands talk: plain lines for people, one JSON document for machines, one sentence for an error; never a
 * password, a colour or a stack trace. Also what every --help ends with (exit codes), and what an interruption has
 * to put right first.
 */
import { existsSync, readFileSync } from 'node:fs'
import { InvalidArgumentError, Option, type Command } from 'commander'
import type { QuorumOptions } from '../config.ts'
import { codeOf, sentenceOf } from '../errors.ts'

export const EXIT = { fine: 0, failed: 1, usage: 2, interrupted: 130 } as const
const REPLICAS = `
Replicas: the urls of all servers, postgres://user:password@host:port/database,
from --replicas (separated by commas), else --config, else PG_QUORUM_REPLICAS
(separated by commas), else pg-quorum.json in the working directory:
  { "replicas": ["postgres://…", "postgres://…", "postgres://…"] }
`
const CODES = `
Exit codes: 0 fine, 1 the operation failed or the cluster cannot write,
2 wrong usage, 130 interrupted (Ctrl-C).`

/** Wrong usage: exit code 2. */
export class UsageError extends Error {}

export interface Common {
  replicas?: string[]
  config?: string
  json?: true
}

/** The options and the help that the commands share. */
export function dress(
  command: Command,
  example: string,
  on: 'replicas given' | 'nothing yet' = 'replicas given',
): Command {
  if (on === 'replicas given') {
    command
      .addOption(new Option('-r, --replicas <urls>', 'the servers, as comma-separated urls').argParser(listed))
      .addOption(new Option('--config <file>', `a file like ${FILE}`))
      .hook('preAction', () => {
        const file = fileOf(command.opts())
        const named =
          command.getOptionValue('replicas') !== undefined ||
          (command.getOptionValue('config') === undefined && listed(process.env['PG_QUORUM_REPLICAS'] ?? '').length > 0)
        if (file?.replicas && !named) command.setOptionValue('replicas', file.replicas)
      })
  }
  return explain(command.option('--json', 'print one JSON document and nothing else'), example, on === 'replicas given')
}

export function explain(command: Command, example: string, withReplicas: boolean): Command {
  return command.addHelpText(
    'after',
    `\nExample:\n${example.replace(/^/gm, '  ')}\n${withReplicas ? REPLICAS : ''}${CODES}`,
  )
}

/** pg-quorum.json: the same keys as the options of a Pool. */
export interface ConfigFile {
  replicas?: string[]
  keep?: NonNullable<QuorumOptions['keep']>
}
const FILE = 'pg-quorum.json'

/** The file named by --config, else the one in the working directory if there is one. */
export function fileOf(options: Common): ConfigFile | undefined {
  const path = options.config ?? FILE
  if (options.config === undefined && !existsSync(path)) return undefined
  const wrong = (why: string): never => {
    throw new UsageError(`${path} ${why}`)
  }
  let document: unknown
  try {
    document = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    return wrong(
      error instanceof SyntaxError
        ? 'is not valid JSON'
        : `cannot be read: ${codeOf(error) === 'ENOENT' ? 'there is no such file' : sentenceOf(error)}`,
    )
  }
  if (typeof document !== 'object' || document === null || Array.isArray(document))
    return wrong('must hold one JSON object, like { "replicas": ["postgres://…"] }')
  for (const key of Object.keys(document))
    if (key !== 'replicas' && key !== 'keep') wrong(`has an unknown key "${key}"; there are replicas and keep`)
  const { replicas, keep } = document as { replicas?: unknown; keep?: unknown }
  if (replicas !== undefined && !(Array.isArray(replicas) && replicas.every((r) => typeof r === 'string')))
    wrong('must give replicas as a list of urls')
  if (keep !== undefined && (typeof keep !== 'object' || keep === null))
    wrong('must give keep as { "changesets": …, "days": …, "outcomeDays": … }')
  return document
}

const listed = (text: string): string[] =>
  text
    .split(',')
    .map((s) => s.trim())
    .filter((s) => s !== '')

/** The urls from wherever they were given. Never repeats one in a message: it may hold a password. */
export function urlsOf(given: readonly string[]): string[] {
  const urls = given.length > 0 ? given.flatMap(listed) : listed(process.env['PG_QUORUM_REPLICAS'] ?? '')
  if (urls.length === 0)
    throw new UsageError(
      `no replicas: pass --replicas url,url,url, set PG_QUORUM_REPLICAS to comma-separated urls, or write them into ${FILE}`,
    )
  urls.forEach((url, i) => {
    if (!/^postgres(ql)?:\/\//.test(url) || !URL.canParse(url))
      throw new UsageError(
        `replica ${i + 1} of ${urls.length} is not a url like postgres://user:password@host:5432/database`,
      )
    if (urls.indexOf(url) < i) throw new UsageError(`replicas ${urls.indexOf(url) + 1} and ${i + 1} are the same url`)
  })
  return urls
}

export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const n = /^\d+$/.test(text) ? Number(text) : NaN
    if (!(n >= least && n <= most))
      throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`)
    return n
  }
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
export function sayJson(document: unknown): void {
  say(JSON.stringify(document, null, 2))
}

/** One line, without what a url in it could give away. */
export function oneSentence(error: unknown): string {
  return sentenceOf(error)
    .replace(/\s*\n\s*/g, ' ')
    .replace(/:\/\/([^\s:@/]*):[^\s@/]*@/g, '://$1:…@')
    .trim()
}

/** Why a server does not answer, in words. */
export function inWords(error: unknown): string {
  const sentence = oneSentence(error)
  if (/timed? ?out/i.test(sentence)) return 'no answer in time'
  switch (codeOf(error)) {
    case 'ECONNREFUSED':
      return 'nothing listens there'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'its host name is unknown'
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return 'no route to its host'
    case '57P03':
      return `it is not ready: ${sentence}`
    default:
      return sentence
  }
}

export const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`
export const duration = (ms: number): string => (ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : age(ms))
export const age = (ms: number): string =>
  ms < 120_000
    ? `${Math.round(ms / 1000)} s`
    : ms < 7_200_000
      ? `${Math.round(ms / 60_000)} min`
      : `${Math.round(ms / 3_600_000)} h`

/** A duration that may be very short. */
export const span = (ms: number): string =>
  ms < 1000 ? `${Math.round(ms)} ms` : ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : age(ms)
export function size(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB']
  const power = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log(bytes) / Math.log(1024)))
  const n = bytes / 1024 ** power
  return `${n < 10 && power > 0 ? n.toFixed(1) : Math.round(n)} ${units[power]}`
}

/**
 * One line broken at spaces into lines that fit the terminal; 80 columns at most, also in a pipe. The first keeps
 * its own indent.
 */
export function fitted(line: string, indent = 0, width = Math.min(process.stdout.columns ?? 80, 80)): string[] {
  const lines: string[] = []
  let rest = line
  while (rest.length > width) {
    const pad = /^ */.exec(rest)?.[0].length ?? 0
    const at = rest.lastIndexOf(' ', width)
    if (at <= pad) break
    lines.push(rest.slice(0, at).trimEnd())
    rest = ' '.repeat(indent) + rest.slice(at).trimStart()
  }
  return [...lines, rest]
}

const endings = new Set<() => unknown>()
/** What must still happen when the command is interrupted. */
export function onInterruption(ending: () => unknown): void {
  endings.add(ending)
}

/** The first signal lets the command tidy up, the second does not wait for that. */
export function watchSignals(): void {
  let before = false
  for (const [name, code] of [
    ['SIGINT', EXIT.interrupted],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.on(name, () => {
      if (before) process.exit(code)
      before = true
      void Promise.allSettled([...endings].map(async (ending) => ending())).then(() => process.exit(code))
    })
  }
}
