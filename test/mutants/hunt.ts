/** One mutant in a copy of the tree of its own, which is gone afterwards. */
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { RunKind } from '../sim/plan.ts'
import type { Mutant } from './mutants.ts'

const ROOT = join(import.meta.dirname, '../..')

/** The mutant's files, changed; throws when a text is not there exactly once. */
export function patched(mutant: Mutant): Map<string, string> {
  const files = new Map<string, string>()
  for (const { file, from, to } of mutant.edits) {
    const source = files.get(file) ?? readFileSync(join(ROOT, file), 'utf8')
    const [found, another] = source.matchAll(laidOutAnyhow(from))
    if (!found || another) throw new Error(`the mutant '${mutant.name}' expects this exactly once in ${file}: ${from}`)
    files.set(file, source.slice(0, found.index) + to + source.slice(found.index + found[0].length))
  }
  return files
}

/** Where a line ends, and how far it is indented, is the formatter's business. */
const laidOutAnyhow = (text: string): RegExp =>
  new RegExp(
    text
      .trim()
      .split(/\s+/)
      .map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
      .join('\\s+'),
    'g',
  )

export interface Catch {
  /** undefined: a test caught it. */
  readonly seeds?: number
  readonly violation: string
}

/** What was seen; undefined: it survived. Its own test instead of the simulator, where it has one. */
export async function hunt(
  mutant: Mutant,
  from: number,
  seeds: number,
  kind: RunKind = mutant.kind ?? 'general',
): Promise<Catch | undefined> {
  const copy = mkdtempSync(join(tmpdir(), 'pg-quorum-mutant-'))
  try {
    for (const part of ['driver', 'test', 'package.json', 'tsconfig.json'])
      cpSync(join(ROOT, part), join(copy, part), { recursive: true, filter: (file) => !file.endsWith('node_modules') })
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
    for (const [file, text] of patched(mutant)) writeFileSync(join(copy, file), text)
    return await (mutant.elsewhere ? inTest(copy, mutant.elsewhere) : inSimulator(copy, mutant, from, seeds, kind))
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

const node = (cwd: string, args: string[]): ChildProcessByStdio<null, Readable, Readable> =>
  spawn(process.execPath, ['--import', 'tsx', ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] })

async function inSimulator(
  copy: string,
  mutant: Mutant,
  from: number,
  seeds: number,
  kind: RunKind,
): Promise<Catch | undefined> {
  const range = `${from}..${from + seeds - 1}`
  const child = node(copy, ['test/sim/main.ts', '--until-violation', '--kind', kind, '--seeds', range])
  const said: string[] = []
  child.stderr.setEncoding('utf8').on('data', (s: string) => said.push(s))
  let found: Catch | undefined
  let finished = false
  for await (const line of createInterface(child.stdout)) {
    const m = /^seed (\d+): (.*)$/.exec(line)
    if (m) found ??= { seeds: Number(m[1]) - from + 1, violation: m[2]!.replace(/^at [\d.]+ ms: /, '') }
    finished ||= /^\d+ seeds/.test(line)
  }
  if (!found && !finished) throw new Error(`the simulator itself failed under '${mutant.name}': ${said.join('')}`)
  return found
}

/** The first of its tests that fails; what fails before any test has begun is no catch. */
async function inTest(copy: string, file: string): Promise<Catch | undefined> {
  const mocha = 'node_modules/mocha/bin/mocha.js'
  const child = node(copy, [mocha, '--no-config', '--bail', '--exit', '--timeout', '20000', '-R', 'json-stream', file])
  const said: string[] = []
  child.stderr.setEncoding('utf8').on('data', (s: string) => said.push(s))
  let found: Catch | undefined
  let finished = false
  for await (const line of createInterface(child.stdout)) {
    if (!line.startsWith('[')) continue
    const [event, { title = '', err = '' }] = JSON.parse(line) as [string, { title?: string; err?: string }]
    if (event === 'fail' && !title.includes('"before all" hook')) found ??= { violation: `${title}: ${err}` }
    finished ||= event === 'end'
  }
  if (!found && !finished) throw new Error(`${file} itself failed: ${said.join('')}`)
  return found
}
