/**
 * `pg-quorum status`: one line a replica with its details below, one for the whole. Works best when things are bad:
 * every server is asked at the same time and has its own deadline, so the answer comes within seconds whatever is
 * down. Changes nothing.
 */
import { Option, type Command } from 'commander'
import { sleep, wall_ms } from '../runtime.ts'
import type { Facts } from './facts.ts'
import { MOST_BEHIND, survey, type Sight, type Survey } from './survey.ts'
import {
  age,
  count,
  dress,
  EXIT,
  fitted,
  say,
  sayJson,
  size,
  span,
  urlsOf,
  wholeNumber,
  type Common,
} from './terminal.ts'

const EXAMPLE = `$ pg-quorum status
10.0.0.1:5432/app  member 1  current
  PostgreSQL 18.4, log 12 MB (4821 changesets), 0 of 64 prepared, clock +3 ms
10.0.0.2:5432/app  member 2  behind by 12 changesets
  PostgreSQL 18.4, log 12 MB (4809 changesets), 0 of 64 prepared, clock -1 ms
10.0.0.3:5432/app  -         unreachable: nothing listens there
Can write: yes. Can read: yes. Can bear no further loss.
2 of 3 usable, 2 needed. Clocks differ by 4 ms.`

export function addStatus(program: Command): void {
  dress(
    program
      .command('status')
      .description('say how each replica is, and whether the cluster can read and write')
      .addOption(
        new Option('-w, --watch [seconds]', 'look again and again until Ctrl-C')
          .argParser(wholeNumber(1, 3600))
          .preset(2),
      ),
    EXAMPLE,
  ).action(async (options: Common & { watch?: number }) => {
    const urls = urlsOf(options.replicas ?? [])
    for (;;) {
      const found = await survey(urls)
      process.exitCode = found.writable ? EXIT.fine : EXIT.failed
      if (options.json) sayJson(found)
      else show(found, options.watch !== undefined)
      if (options.watch === undefined) return
      await sleep(options.watch * 1000)
    }
  })
}

/**
 * On a terminal a watched picture is drawn over the last one, without a flicker; in a pipe it is appended, with the
 * time.
 */
function show(found: Survey, watched: boolean): void {
  const lines = linesOf(found).flatMap(([line, indent]) => fitted(line, indent))
  if (watched)
    lines.unshift(new Intl.DateTimeFormat('sv', { dateStyle: 'short', timeStyle: 'medium' }).format(wall_ms()))
  if (watched && process.stdout.isTTY) process.stdout.write(`\x1b[H${lines.map((l) => `${l}\x1b[K\n`).join('')}\x1b[J`)
  else lines.forEach(say)
}

/** Each with the indent of the lines it may be broken into. */
function linesOf(found: Survey): [line: string, indent: number][] {
  const width = Math.max(...found.replicas.map((r) => r.name.length))
  return [
    ...found.replicas.flatMap((r): [string, number][] => [
      [`${r.name.padEnd(width)}  ${(r.member === null ? '-' : `member ${r.member}`).padEnd(8)}  ${stateOf(r)}`, 4],
      ...(r.facts ? [[`  ${detailsOf(r.facts)}`, 4] as [string, number]] : []),
    ]),
    ...wholeOf(found).map((line): [string, number] => [line, 0]),
  ]
}

function stateOf(r: Sight): string {
  const oldest = Math.max(0, ...r.doubt.map((d) => d.age_ms))
  const doubt = r.doubt.length > 0 ? `, ${r.doubt.length} in doubt (oldest ${age(oldest)})` : ''
  const state =
    r.state === 'behind'
      ? `behind by ${r.behind >= MOST_BEHIND ? 'at least ' : ''}${count(r.behind, 'changeset')}`
      : r.state.replaceAll('-', ' ')
  return `${state}${doubt}${r.error === null ? '' : `: ${r.error}`}${
    r.refuses === null ? '' : `; takes no writes: ${r.refuses}`
  }`
}

function detailsOf(f: Facts): string {
  const log =
    f.log_bytes === null || f.changesets === null
      ? 'no log'
      : `log ${size(f.log_bytes)} (${f.changesets_exact ? '' : 'about '}${count(f.changesets, 'changeset')})`
  const foreign = f.prepared_foreign > 0 ? ` (${f.prepared_foreign} not pg-quorum's)` : ''
  return `PostgreSQL ${f.server_version}, ${log}, ${f.prepared_used} of ${f.prepared_max} prepared${foreign}, clock ${
    Math.round(f.clock_offset_ms) < 0 ? '-' : '+'
  }${span(Math.abs(f.clock_offset_ms))}`
}

function wholeOf(f: Survey): string[] {
  const can = `Can write: ${f.writable ? 'yes' : 'NO'}. Can read: ${f.readable ? 'yes' : 'NO'}.`
  const losses =
    f.spare === 0 ? 'Can bear no further loss.' : `Can bear ${f.spare} more ${f.spare === 1 ? 'loss' : 'losses'}.`
  const why = f.usable < f.needed ? `${f.needed - f.usable} more must come back.` : 'Too few of them take writes.'
  const clocks = f.clock_spread_ms === null ? '' : ` Clocks differ by ${span(f.clock_spread_ms)}.`
  return [
    `${can} ${f.writable ? losses : why}`,
    `${f.usable} of ${f.replicas.length} usable, ${f.needed} needed${
      f.write_quorum > Math.floor(f.replicas.length / 2) + 1
        ? ` for writes (pg-quorum dial), ${f.replicas.length - f.write_quorum + 1} for reads`
        : ''
    }.${clocks}`,
  ]
}
