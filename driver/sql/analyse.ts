// What each statement of a text is, reads and writes, according to PostgreSQL's own parser.
// Call loadParser() once, then analyse() is synchronous, and remembers the texts it has seen: the
// answer is shared, so do not change it. It never refuses a text. What it cannot parse it calls
// 'unknown' and opaque, for the server to judge, and so it does with a text of more than 64 kB,
// because parsing holds up the event loop (1 s per megabyte), and with one that contains a NUL,
// behind which the parser would not look.

import { LRUCache } from 'lru-cache'
import { loadModule, parseSync } from 'libpg-query'
import type {
  AlterTableCmd,
  AlterTableStmt,
  CopyStmt,
  CreateTableAsStmt,
  DefElem,
  DropStmt,
  ExplainStmt,
} from 'libpg-query'
import type {
  IndexStmt,
  LockStmt,
  Node,
  RangeVar,
  RefreshMatViewStmt,
  ReindexStmt,
  SelectStmt,
  TransactionStmt,
  TruncateStmt,
} from 'libpg-query'
import { names, pick } from './keys.ts'
import type { Kind, Statement } from './statement.ts'
import { tableName, Uses } from './uses.ts'

export type { KeyPart, Kind, Statement, TableUse } from './statement.ts'

const TEXT_LIMIT_bytes = 64 * 1024
const CACHE_LIMIT_texts = 2000
const CACHE_LIMIT_chars = 16 * 1024 * 1024

type Meaning = Omit<Statement, 'text'>

const cache = new LRUCache<string, Statement[]>({
  max: CACHE_LIMIT_texts,
  maxSize: CACHE_LIMIT_chars,
  sizeCalculation: (_statements, text) => text.length + 1,
})
let loaded = false
export const isLoaded = (): boolean => loaded

export async function loadParser(): Promise<void> {
  if (loaded) return
  await loadModule()
  loaded = true
}

export function analyse(text: string): Statement[] {
  if (!loaded) throw new Error('analyse() before loadParser() has finished')
  if (text.length > TEXT_LIMIT_bytes) return [unknown(text)]
  const known = cache.get(text)
  if (known) return known
  const statements = parse(text)
  cache.set(text, statements)
  return statements
}

function parse(text: string): Statement[] {
  const source = Buffer.from(text) // the parser counts bytes
  if (source.length > TEXT_LIMIT_bytes || text.includes('\0')) return [unknown(text)]
  if (text.trim() === '') return []
  try {
    return (parseSync(source.toString()).stmts ?? []).map(({ stmt, stmt_location: start = 0, stmt_len: length }) => {
      const meaning = meaningOf(stmt)
      const own = source.toString('utf8', start, length ? start + length : source.length).trim()
      const outside = meaning.kind === 'outside' ? outsideOf(stmt) : undefined
      return {
        ...meaning,
        text: own,
        ...(outside ? { outside } : {}),
        ...(setsSequence(meaning, own) ? { sets: true } : {}),
      }
    })
  } catch {
    return [unknown(text)]
  }
}

function unknown(text: string): Statement {
  const meaning: Meaning = { kind: 'unknown', tables: [], functions: [], opaque: true }
  return { ...meaning, text, ...(setsSequence(meaning, text) ? { sets: true } : {}) }
}

/** In what was not parsed (DO, CALL) the word will do. */
function setsSequence({ functions, opaque, kind }: Meaning, text: string): boolean {
  return (
    kind !== 'ddl' &&
    (opaque ? /setval/i.test(text) : functions.some((f) => f === 'setval' || f === 'pg_catalog.setval'))
  )
}

const KINDS: Readonly<Record<string, Kind>> = {
  SelectStmt: 'read',
  DeclareCursorStmt: 'read',
  InsertStmt: 'write',
  UpdateStmt: 'write',
  DeleteStmt: 'write',
  MergeStmt: 'write',
  TruncateStmt: 'write',
  NotifyStmt: 'write',
  DoStmt: 'write',
  CallStmt: 'write',
  ExecuteStmt: 'write',
  VariableSetStmt: 'session',
  VariableShowStmt: 'session',
  DiscardStmt: 'session',
  ListenStmt: 'session',
  UnlistenStmt: 'session',
  PrepareStmt: 'session',
  DeallocateStmt: 'session',
  FetchStmt: 'session',
  ClosePortalStmt: 'session',
  CheckPointStmt: 'session',
  ConstraintsSetStmt: 'session',
  LoadStmt: 'session',
  LockStmt: 'lock',
  CreatedbStmt: 'outside',
  DropdbStmt: 'outside',
  AlterSystemStmt: 'outside',
  CreateTableSpaceStmt: 'outside',
  DropTableSpaceStmt: 'outside',
  CreateSubscriptionStmt: 'outside',
  AlterSubscriptionStmt: 'outside',
  DropSubscriptionStmt: 'outside',
}

/** Functions whose call is carried to the others as a statement, not as rows. */
const CARRIED = new Set(['quorum.set_write_floor'])
const OPAQUE = new Set(['DoStmt', 'CallStmt', 'ExecuteStmt'])

function meaningOf(node: Node | undefined): Meaning {
  const [name = '', content] = Object.entries(node ?? {})[0] ?? []
  const uses = new Uses()
  const told = (kind: Kind, more: Partial<Meaning> = {}): Meaning => ({
    kind,
    tables: uses.tables,
    functions: uses.functions,
    opaque: OPAQUE.has(name),
    ...more,
  })
  switch (name) {
    case 'TransactionStmt':
      return { ...told('unknown'), ...transactionOf(content as TransactionStmt) }
    case 'LockStmt':
      return told('lock', { lock: lockOf(content as LockStmt) })
    case 'ExplainStmt':
      return explainOf(content as ExplainStmt)
    case 'PrepareStmt':
      return told('session')
    case 'SelectStmt':
      uses.visitTop(node)
      if (isTemporary((content as SelectStmt).intoClause?.rel))
        return told('write', { temporary: true, tables: readsOf(uses) })
      return told(uses.created || uses.functions.some((f) => CARRIED.has(f)) ? 'ddl' : uses.wrote ? 'write' : 'read')
    case 'DeclareCursorStmt':
      uses.visitTop((content as { query?: Node }).query)
      return told(
        uses.wrote ? 'write' : 'read',
        ((content as { options?: number }).options ?? 0) & CURSOR_WITH_HOLD ? {} : { inBlock: true },
      )
    case 'InsertStmt':
    case 'UpdateStmt':
    case 'DeleteStmt':
      uses.visitTop(node)
      return told('write')
    case 'CopyStmt':
      return copyOf(content as CopyStmt, uses, told)
    case 'TruncateStmt':
      for (const range of rangesOf((content as TruncateStmt).relations)) uses.write(range)
      // sequences are no rows
      return (content as TruncateStmt).restart_seqs ? told('ddl', { tables: [] }) : told('write')
    case 'CreateTableAsStmt': {
      const { into, query } = content as CreateTableAsStmt
      uses.write(into?.rel)
      uses.visit(query)
      if (isTemporary(into?.rel))
        return told('write', {
          temporary: true,
          tables: readsOf(uses),
          opaque: pick(query, 'ExecuteStmt') !== undefined,
        })
      return told('ddl', { opaque: pick(query, 'ExecuteStmt') !== undefined })
    }
    case 'RefreshMatViewStmt':
      uses.write((content as RefreshMatViewStmt).relation)
      return told('ddl')
    case 'CreateStmt':
    case 'CreateSeqStmt':
    case 'ViewStmt': {
      uses.visit(node)
      const { relation, sequence, view } = content as { relation?: RangeVar; sequence?: RangeVar; view?: RangeVar }
      return isTemporary(relation ?? sequence ?? view)
        ? told('write', { temporary: true, tables: readsOf(uses).filter((use) => use.table !== relation?.relname) })
        : told('ddl', { tables: [] })
    }
    case 'DropStmt':
    case 'IndexStmt':
    case 'AlterTableStmt':
    case 'AlterSeqStmt':
    case 'RenameStmt':
      uses.visit(node)
      return told(refusesTransaction(name, content) ? 'outside' : 'ddl', {
        tables: [],
        names: namesOf(content as { objects?: Node[]; relation?: RangeVar; sequence?: RangeVar }),
      })
    default: {
      uses.visit(node)
      const kind =
        KINDS[name] ?? (refusesTransaction(name, content) ? 'outside' : name === 'VacuumStmt' ? 'session' : 'ddl')
      return told(kind, kind === 'write' ? {} : { tables: [] }) // what DDL touches is the whole schema
    }
  }
}

function transactionOf({ kind, options, chain }: TransactionStmt): Pick<Meaning, 'kind' | 'begin' | 'chain'> {
  const chained = chain ? { chain } : {}
  switch (kind) {
    case 'TRANS_STMT_BEGIN':
    case 'TRANS_STMT_START': {
      const isolation = optionNamed(options, 'transaction_isolation')?.text
      const readOnly = optionNamed(options, 'transaction_read_only')?.on ?? false
      return { kind: 'begin', begin: { readOnly, ...(isolation === undefined ? {} : { isolation }) } }
    }
    case 'TRANS_STMT_COMMIT':
      return { kind: 'commit', ...chained }
    case 'TRANS_STMT_ROLLBACK':
      return { kind: 'rollback', ...chained }
    case 'TRANS_STMT_PREPARE':
    case 'TRANS_STMT_COMMIT_PREPARED':
    case 'TRANS_STMT_ROLLBACK_PREPARED':
      return { kind: 'two-phase' }
    default:
      return { kind: 'savepoint' }
  }
}

/** ACCESS SHARE, ROW SHARE and SHARE let other readers in; every other mode announces a writer. */
function lockOf({ relations, mode = 8 }: LockStmt): { tables: string[]; mode: 'shared' | 'exclusive' } {
  return {
    tables: rangesOf(relations).map(tableName),
    mode: mode === 1 || mode === 2 || mode === 5 ? 'shared' : 'exclusive',
  }
}

/** A plain EXPLAIN runs nothing: of what it explains, only the reads are told. */
function explainOf({ query, options }: ExplainStmt): Meaning {
  const inner = meaningOf(query)
  if (optionNamed(options, 'analyze')?.on) return inner
  return { ...inner, kind: 'read', tables: inner.tables.filter((use) => use.mode === 'read') }
}

function copyOf(copy: CopyStmt, uses: Uses, told: (kind: Kind, more?: Partial<Meaning>) => Meaning): Meaning {
  if (copy.is_from) uses.write(copy.relation)
  else uses.read(copy.relation)
  if (copy.query) uses.visitTop(copy.query)
  uses.visit(copy.whereClause)
  return told(uses.wrote ? 'write' : 'read', copy.is_from ? { copyFrom: true } : {})
}

function refusesTransaction(name: string, content: unknown): boolean {
  switch (name) {
    case 'VacuumStmt':
      return (content as { is_vacuumcmd?: boolean }).is_vacuumcmd ?? false
    case 'IndexStmt':
      return (content as IndexStmt).concurrent ?? false
    case 'DropStmt':
      return (content as DropStmt).concurrent ?? false
    case 'ClusterStmt':
      return (content as { relation?: RangeVar }).relation === undefined
    case 'AlterDatabaseStmt':
      return optionNamed((content as { options?: Node[] }).options, 'tablespace') !== undefined
    case 'ReindexStmt': {
      const { kind, params } = content as ReindexStmt
      const single = kind === 'REINDEX_OBJECT_INDEX' || kind === 'REINDEX_OBJECT_TABLE'
      return !single || (optionNamed(params, 'concurrently')?.on ?? false)
    }
    case 'AlterTableStmt':
      return ((content as AlterTableStmt).cmds ?? []).some((cmd) => {
        const part = pick<AlterTableCmd>(cmd, 'AlterTableCmd')?.def
        return pick<{ concurrent?: boolean }>(part, 'PartitionCmd')?.concurrent ?? false
      })
    default:
      return false
  }
}

const CURSOR_WITH_HOLD = 0x20
const isTemporary = (range: RangeVar | undefined): boolean =>
  range?.relpersistence === 't' || range?.schemaname === 'pg_temp'
const readsOf = (uses: Uses): Statement['tables'] => uses.tables.filter((use) => use.mode === 'read')

function namesOf({
  objects,
  relation,
  sequence,
}: {
  objects?: Node[]
  relation?: RangeVar
  sequence?: RangeVar
}): string[] {
  const range = relation ?? sequence
  return range
    ? [tableName(range)]
    : (objects ?? []).map((node) => names(pick<{ items?: Node[] }>(node, 'List')?.items).join('.'))
}

/** What changes no row, and so may be done on one replica after another. */
function outsideOf(node: Node | undefined): Statement['outside'] {
  const [name = '', content] = Object.entries(node ?? {})[0] ?? []
  switch (name) {
    case 'VacuumStmt':
    case 'ReindexStmt':
    case 'ClusterStmt':
      return { does: 'each' }
    case 'IndexStmt': {
      const { idxname, relation, unique } = content as IndexStmt
      // An index lives in its table's schema.
      return {
        does: 'create',
        ...(idxname === undefined
          ? {}
          : {
              index: [relation?.schemaname, idxname]
                .filter((part) => part !== undefined)
                .map(quoted)
                .join('.'),
            }),
        ...(unique ? { unique } : {}),
      }
    }
    case 'DropStmt': {
      const parts = names(pick<{ items?: Node[] }>((content as DropStmt).objects?.[0], 'List')?.items)
      return { does: 'drop', index: parts.map((part) => quoted(part ?? '')).join('.') }
    }
    default:
      return undefined
  }
}

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

function rangesOf(nodes: Node[] | undefined): RangeVar[] {
  return (nodes ?? []).flatMap((node) => pick<RangeVar>(node, 'RangeVar') ?? [])
}

/** The last option of this name; one without a value is on. */
function optionNamed(options: Node[] | undefined, name: string): { on: boolean; text: string } | undefined {
  const option = (options ?? [])
    .map((node) => pick<DefElem>(node, 'DefElem'))
    .findLast((element) => element?.defname === name)
  if (!option) return undefined
  if (!option.arg) return { on: true, text: '' }
  const literal = pick<{ sval?: { sval?: string }; ival?: { ival?: number } }>(option.arg, 'A_Const')
  const integer = literal?.ival ?? pick<{ ival?: number }>(option.arg, 'Integer')
  const text = literal?.sval?.sval ?? pick<{ sval?: string }>(option.arg, 'String')?.sval ?? String(integer?.ival ?? 0)
  return { on: ['true', 'on', '1'].includes(text.toLowerCase()), text: text.toLowerCase() }
}
