/**
 * `pg-quorum verify`: are all replicas the same? Reads only, while writers go on. Each difference is named: which
 * table and row (or object), which replica says what, who is in the minority, and the one command that puts it
 * right. With --repair, rows of a minority, each after a yes.
 */
import { Option, type Command } from 'commander'
import { userInfo } from 'node:os'
import { createInterface } from 'node:readline/promises'
import { replicaConfigs } from '../config.ts'
import { mend, type Mended } from '../repair/mend.ts'
import type { Finding, Voice } from '../repair/verdict.ts'
import { verify, type Progress, type Report } from '../repair/verify.ts'
import { Witness } from '../replica/witness.ts'
import { meter, type Meter } from './progress.ts'
import {
  count,
  dress,
  EXIT,
  onInterruption,
  say,
  sayJson,
  urlsOf,
  UsageError,
  wholeNumber,
  type Common,
} from './terminal.ts'

const EXAMPLE = `$ pg-quorum verify
public.accounts id=42: is another one on 10.0.0.3:5432
    balance: 1000 on 10.0.0.1:5432, 10.0.0.2:5432
             1001 on 10.0.0.3:5432
Different: 1 of 1000000 rows in 4 tables, on 10.0.0.3:5432. 3 replicas, 4.1 s.
To put it right: pg-quorum verify --repair`

interface Options extends Common {
  chains?: true
  repair?: true
  yes?: true
  rows: number
}

export function addVerify(program: Command): void {
  dress(
    program
      .command('verify')
      .description('compare all replicas, rows and everything else, while writers go on')
      .option('--chains', 'only compare the histories: milliseconds, and finds no changed rows')
      .option('--repair', 'put rows of a minority right from the majority; asks first')
      .option('--yes', 'with --repair: do not ask')
      .addOption(
        new Option('--rows <n>', 'most differing rows to name in each table')
          .argParser(wholeNumber(1, 100_000))
          .default(1000),
      ),
    EXAMPLE,
  ).action(async (options: Options) => {
    const asks = process.stdin.isTTY && !options.json
    if (options.yes && !options.repair) throw new UsageError('--yes is for --repair')
    if (options.repair && options.chains)
      throw new UsageError('--chains looks at no rows, so there is nothing that --repair could repair')
    if (options.repair && !options.yes && !asks)
      throw new UsageError('--repair asks before it changes a row; where nobody can answer, say --yes')
    const urls = urlsOf(options.replicas ?? [])
    const witnesses = replicaConfigs({ replicas: urls }).map((config, i) => new Witness(config, i))
    const bar = options.json ? undefined : meter('rows')
    onInterruption(() => {
      bar?.clear()
      process.stderr.write('stopped; nothing was left behind\n')
    })
    try {
      const report = await verify(witnesses, {
        ...(options.chains ? { chains: true } : {}),
        rows: options.rows,
        ...(bar ? { onProgress: (p: Progress) => show(bar, p) } : {}),
      })
      bar?.clear()
      if (!options.json) tell(report, options)
      const mended = options.repair ? await repair(witnesses, report, options) : []
      if (options.json) sayJson({ ...report, ...(options.repair ? { repaired: mended } : {}) })
      const left =
        report.findings.length -
        report.findings.filter(
          (f) =>
            mended.some((m) => m.table === f.object && m.key === f.key) &&
            mended.every((m) => m.table !== f.object || m.key !== f.key || m.error === null),
        ).length
      process.exitCode = left === 0 ? EXIT.fine : EXIT.failed
    } finally {
      await Promise.race([
        Promise.all(witnesses.map((w) => w.close())),
        new Promise((resolve) => setTimeout(resolve, 500)),
      ])
    }
  })
}

function show(bar: Meter, p: Progress): void {
  if (p.stage === 'rows')
    bar.show({ done: p.done, total: p.of, words: `of about ${Math.round(p.of)} rows: ${p.table ?? ''}` })
}

/** One line of at most `width`, its difference not cut off: what all have in common at the beginning is left out. */
function excerpt(text: string | null, common: number, width: number): string {
  if (text === null) return 'no value'
  const from = common > 24 ? common - 12 : 0
  const part = oneLine(text.slice(from, from + width))
  return `${from > 0 ? '…' : ''}${part}${from + width < text.length ? '…' : ''}` || "''"
}
// eslint-disable-next-line no-control-regex -- a row may hold anything, and a terminal would obey some of it
const oneLine = (text: string): string => text.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029]/g, '·')

function commonStart(voices: readonly Voice[]): number {
  const texts = voices.map((v) => v.text ?? '')
  const [first = ''] = texts
  let i = 0
  while (i < first.length && texts.every((t) => t[i] === first[i])) i++
  return i
}

function tellVoices(label: string, voices: readonly Voice[]): void {
  voices.forEach((v, i) =>
    say(
      `    ${i === 0 ? label : ' '.repeat(label.length)}` +
        `${excerpt(v.text, commonStart(voices), 40)} on ${v.on.join(', ')}`,
    ),
  )
}

const SHOWN = 20

function tell(report: Report, options: Options): void {
  const shown = new Map<string, number>()
  for (const f of report.findings) {
    const k = (shown.get(`${f.kind} ${f.kind === 'row' ? f.object : ''}`) ?? 0) + 1
    shown.set(`${f.kind} ${f.kind === 'row' ? f.object : ''}`, k)
    if (k > SHOWN) continue
    say(
      oneLine(
        `${f.kind === 'row' ? '' : `${f.kind} `}${f.object}` +
          `${f.key === undefined ? '' : ` ${f.key.slice(0, 60)}`}: ` +
          `${f.says}${
            f.replicas.length > 0 ? `${/only$|one$|missing$/.test(f.says) ? ' on' : ':'} ${f.replicas.join(', ')}` : ''
          }`,
      ),
    )
    if (f.columns) for (const c of f.columns) tellVoices(`${c.column}: `, c.voices)
    else if (f.voices.some((v) => v.text !== null) && f.kind !== 'function')
      tellVoices(
        '',
        f.voices.map((v) => (v.text === null ? { ...v, text: 'not there' } : v)),
      )
  }
  for (const [what, k] of shown) if (k > SHOWN) say(`… and ${k - SHOWN} more like ${what.trim()} (all with --json)`)
  const done = `${count(report.compared.length, 'replica')}, ${(report.ms / 1000).toFixed(1)} s`
  const looked = options.chains
    ? `${count(report.stripes, 'stripe')}`
    : `${count(report.rows, 'row')} in ${count(report.tables.length, 'table')}`
  if (report.same)
    return say(
      options.chains ? `Same histories: ${looked}, ${done}. Rows were not looked at.` : `Same: ${looked}, ${done}.`,
    )
  const [differ, wrong] = [
    report.tables.reduce((sum, t) => sum + t.differences, 0),
    [...new Set(report.findings.flatMap((f) => f.replicas))],
  ]
  const others = report.findings.filter((f) => f.kind !== 'row').length
  say(
    `Different: ${[
      ...(differ > 0 ? [`${count(differ, 'row')}`] : []),
      ...(others > 0 ? [`${count(others, 'other finding')}`] : []),
    ].join(' and ')}${wrong.length > 0 ? `, on ${wrong.join(', ')}` : ''}. Looked at ${looked}, ${done}.`,
  )
  for (const way of waysBack(report, options)) say(`To put it right: ${way}`)
}

/** Kinds of findings about what the protocol keeps. */
const OF_THE_LOG = [
  'chain',
  'history',
  'applied',
  'changeset',
  'read mark',
  'ballot',
  'prepared transaction',
  'captured rows',
  'unreadable',
]

/** One command for each kind of damage. */
function waysBack(report: Report, options: Options): string[] {
  const of = (...kinds: string[]): Finding[] => report.findings.filter((f) => kinds.includes(f.kind))
  const rows = of('row')
  const away = of('replica')
  const behind = [...new Set(of('behind').flatMap((f) => f.replicas))]
  const log = [...new Set(of(...OF_THE_LOG).flatMap((f) => f.replicas))]
  const schema = report.findings.filter(
    (f) => !['row', 'more rows', 'replica', 'behind', ...OF_THE_LOG, 'setting', 'membership'].includes(f.kind),
  )
  return [
    ...(away.length > 0 ? ['start what does not answer, then verify again'] : []),
    ...behind.map((r) => `pg-quorum catch-up ${r}, then verify again`),
    ...(schema.length > 0 ? ['pg-quorum init, which renews triggers and functions; if it stays, clone'] : []),
    ...log.map((r) => `pg-quorum clone ${r}`),
    ...(rows.some((f) => f.cure) && !options.repair ? ['pg-quorum verify --repair'] : []),
    ...(rows.some((f) => f.replicas.length > 0 && !f.cure) ? ['rows without a primary key: pg-quorum clone'] : []),
    ...(rows.some((f) => f.replicas.length === 0)
      ? ['no majority: somebody must say which is right, and write it through the driver']
      : []),
  ]
}

async function repair(witnesses: readonly Witness[], report: Report, options: Options): Promise<Mended[]> {
  const curable = report.findings.filter((f) => f.cure !== undefined && f.replicas.length > 0)
  const speak = options.json ? (): void => undefined : say
  if (curable.length === 0) speak('There is no row that a majority could put right.')
  const done: Mended[] = []
  const terminal = options.yes ? undefined : createInterface({ input: process.stdin, output: process.stdout })
  let all = options.yes === true
  // What is too much goes first, what is missing comes last: so no two of them meet in a unique index.
  const order = (f: Finding): number => (f.says === 'is there only' ? 0 : f.says === 'is missing' ? 2 : 1)
  try {
    for (const f of [...curable].sort((a, b) => order(a) - order(b))) {
      if (!all && terminal) {
        say(`${oneLine(f.object)} ${oneLine(f.key ?? '')} on ${f.replicas.join(', ')}`)
        const [right, ...wrong] = f.voices
        for (const v of wrong) say(`    now:  ${v.text === null ? 'not there' : oneLine(v.text)}`)
        say(`    then: ${right?.text == null ? 'not there' : oneLine(right.text)}`)
        const answer = (await terminal.question('Put it right? [y]es, [n]o, [a]ll, [q]uit: ')).trim().toLowerCase()
        if (answer === 'q') break
        if (answer === 'a') all = true
        else if (answer !== 'y') continue
      }
      for (const m of await mend(witnesses, f, `${userInfo().username}, pg-quorum verify --repair`)) {
        done.push(m)
        speak(
          oneLine(
            `${m.table} ${m.key} on ${m.replica}: ` +
              `${m.error === null ? 'put right, and read again' : `left as it is: ${m.error}`}`,
          ),
        )
      }
    }
  } finally {
    terminal?.close()
  }
  if (done.some((m) => m.error === null)) speak('What was there before is in quorum.repair on that replica.')
  return done
}
