// Correctness only: what a compiler cannot see and a reader overlooks. Layout is prettier's (package.json); the arrows between rooms are test/tidy.test.ts's.
import tseslint from 'typescript-eslint'

const basics = Object.fromEntries([
  'constructor-super', 'for-direction', 'getter-return', 'no-async-promise-executor', 'no-case-declarations', 'no-compare-neg-zero', 'no-cond-assign',
  'no-constant-binary-expression', 'no-constant-condition', 'no-control-regex', 'no-debugger', 'no-dupe-else-if', 'no-duplicate-case', 'no-empty',
  'no-empty-character-class', 'no-empty-pattern', 'no-empty-static-block', 'no-ex-assign', 'no-extra-boolean-cast', 'no-fallthrough', 'no-global-assign',
  'no-invalid-regexp', 'no-irregular-whitespace', 'no-loss-of-precision', 'no-misleading-character-class', 'no-prototype-builtins', 'no-regex-spaces',
  'no-self-assign', 'no-shadow-restricted-names', 'no-sparse-arrays', 'no-unexpected-multiline', 'no-unreachable', 'no-unsafe-finally',
  'no-unsafe-optional-chaining', 'no-unused-labels', 'no-unused-private-class-members', 'no-useless-backreference', 'no-useless-catch', 'no-useless-escape',
  'no-var', 'prefer-const', 'require-yield', 'use-isnan', 'valid-typeof',
].map((rule) => [rule, 'error']))

export default [
  { ignores: ['dist/', 'node_modules/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' }, rules: basics },
  {
    files: ['{driver,examples,test}/**/*.ts'],
    plugins: { '@typescript-eslint': tseslint.plugin },
    languageOptions: { parser: tseslint.parser, parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', ignoreRestSiblings: true }],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports', disallowTypeAnnotations: false }],
      '@typescript-eslint/no-unused-expressions': 'error',
    },
  },
  { // chai's assertions are expressions; a callback may be async where the test itself waits for it
    files: ['test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unused-expressions': 'off',
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: false }],
      'no-empty': ['error', { allowEmptyCatch: true }],
    },
  },
]
