/* Shared locks: read marks, with three transactions on two stripes, s and w. Read commit.pml first.
   T0 reads s and writes w. T1 writes s. T2 is, with THIRD=1, a second reader of s (it writes elsewhere); with THIRD=2 it reads w and writes s
   (write skew with T0), with THIRD=3 it only reads w (a chain: T2 before T0 before T1).
   The transaction FOCUS has its owner, lead (member 0, by numbering) and K ballots in full. The two others are black boxes that keep what
   commit.pml shows of any transaction: decided once, and commit only while W members hold it; before that, a member may let go of it (the lead's
   session; on the others it is more than they can do) and abort is always possible. One replica may be destroyed. */
#define N 3
#define W 2
#ifndef D
#define D 1
#endif
#ifndef K
#define K 2
#endif
#ifndef FOCUS
#define FOCUS 0
#endif
#ifndef THIRD
#define THIRD 1
#endif
#define COMMIT 1
#define ABORT 2
#define NONE 0
#define PREP 1
#define SEALED 2
#define COMM 3

byte st[3*N];                    /* transaction t on replica i */
#define ST(t,i) st[(t)*N+(i)]
byte hist[2*N], mark[2*N];       /* per replica and stripe: who wrote it, in order (base 4, t+1); who has read its present version (bits) */
#define HIST(i,x) hist[(i)*2+(x)]
#define MARK(i,x) mark[(i)*2+(x)]
#define VER(i,x) ((HIST(i,x)>0)+(HIST(i,x)>3))
bool begun[3]; byte bv[6], bm[6]; /* bases: versions, and for what is written the marks found */
byte dec[3];                     /* the black boxes' decisions; of FOCUS unused */
bool decC, decA;                 /* of FOCUS */
bool dead[N];
byte prom[N], acc[N], told[N], by[(K+1)*N], ph[K+1], prep[K+1], one[K+1];   /* among its promises: prepared there; accepted in ballot 1 */
bool untold;
#define IN(b,i) by[(b)*N+(i)]

#define S 0
#define WW 1
#if THIRD!=2
#define WRITES(t,x) ((t==0 && x==WW) || (t==1 && x==S))
#define READS(t,x)  ((t==0 && x==S) || (t==2 && x==(THIRD==1 -> S : WW)))
#else
#define WRITES(t,x) ((t==0 && x==WW) || (t==1 && x==S) || (t==2 && x==S))
#define READS(t,x)  ((t==0 && x==S) || (t==2 && x==WW))
#endif
#define USES(t,x) (WRITES(t,x) || READS(t,x))
#define MEET(t,o,x) (USES(t,x) && USES(o,x) && (WRITES(t,x) || WRITES(o,x)))
#ifdef M_READFREE                /* A is not taken for what is only read */
#define CLASH(t,o) ((WRITES(t,S) && WRITES(o,S)) || (WRITES(t,WW) && WRITES(o,WW)))
#else
#define CLASH(t,o) (MEET(t,o,S) || MEET(t,o,WW))
#endif
#define HOLDS(o,i) (ST(o,i)==PREP || ST(o,i)==SEALED)
#define A_FREE(t,i) (!(t!=0 && HOLDS(0,i) && CLASH(t,0)) && !(t!=1 && HOLDS(1,i) && CLASH(t,1)) && !(t!=2 && HOLDS(2,i) && CLASH(t,2)))

/* quorum.against() */
#define SIZE(m) (((m)&1)+(((m)>>1)&1)+(((m)>>2)&1))
#define BV(t,x) bv[(t)*2+(x)]
#define BM(t,x) bm[(t)*2+(x)]
#ifdef M_NOMARKS                 /* read marks are dropped */
#define MORE(t,i,x) false
#define LESS(t,i,x) false
#else
#ifdef M_COUNTONLY               /* marks are counted, their sum is not compared */
#define OTHERS(t,i,x) false
#else
#define OTHERS(t,i,x) (SIZE(MARK(i,x))==SIZE(BM(t,x)) && MARK(i,x)!=BM(t,x))
#endif
#define MORE(t,i,x) (WRITES(t,x) && VER(i,x)==BV(t,x) && (SIZE(MARK(i,x))>SIZE(BM(t,x)) || OTHERS(t,i,x)))
#define LESS(t,i,x) (WRITES(t,x) && VER(i,x)==BV(t,x) && SIZE(MARK(i,x))<SIZE(BM(t,x)))
#endif
#define OVER(t,i,x)  (USES(t,x) && (VER(i,x)>BV(t,x) || MORE(t,i,x)))
#define UNDER(t,i,x) (USES(t,x) && (VER(i,x)<BV(t,x) || LESS(t,i,x)))
#define AHEAD(t,i) (OVER(t,i,S) || OVER(t,i,WW))
#define SAMEBASE(t,i) (!AHEAD(t,i) && !UNDER(t,i,S) && !UNDER(t,i,WW))
#define FITS(t,i) (begun[t] && ST(t,i)==NONE && A_FREE(t,i) && SAMEBASE(t,i))
#define PAST(t,i) (begun[t] && !dead[i] && ST(t,i)==NONE && AHEAD(t,i))       /* superseded */
#ifdef M_FENCE
#define FENCED(i,b) false
#else
#define FENCED(i,b) (prom[i] > b)
#endif

#define HOLDERS(t) ((ST(t,0)!=NONE)+(ST(t,1)!=NONE)+(ST(t,2)!=NONE))
#define CHOSEN(t) ((t==FOCUS && decC) || (t!=FOCUS && dec[t]==COMMIT))
/* a came before b: on a stripe where they meet, a rests on a version that b replaced, or b on one that a made */
#define BEFORE_ON(a,b,x) (MEET(a,b,x) && ((WRITES(b,x) && BV(a,x)<=BV(b,x)) || (WRITES(a,x) && BV(b,x)>BV(a,x))))
#define BEFORE(a,b) (CHOSEN(a) && CHOSEN(b) && (BEFORE_ON(a,b,S) || BEFORE_ON(a,b,WW)))
#define SAME(i,j,x) (HIST(i,x)==HIST(j,x) || HIST(i,x)==0 || HIST(j,x)==0 || HIST(i,x)==HIST(j,x)>>2 || HIST(j,x)==HIST(i,x)>>2)
#define ONE_HISTORY(x) (SAME(0,1,x) && SAME(0,2,x) && SAME(1,2,x))
inline put(t,i) {
  ST(t,i) = COMM; x = 0;
  do :: x<2 -> if :: WRITES(t,x) -> HIST(i,x) = HIST(i,x)*4+t+1; MARK(i,x) = 0
                  :: !WRITES(t,x) && READS(t,x) -> MARK(i,x) = MARK(i,x) | (1<<t) :: else fi; x++
     :: else -> x = 0; break od
}
inline seal(t,i) { begun[t] = 1; BV(t,S) = VER(i,S); BV(t,WW) = VER(i,WW); if :: WRITES(t,S) -> BM(t,S) = MARK(i,S) :: else fi; if :: WRITES(t,WW) -> BM(t,WW) = MARK(i,WW) :: else fi }
inline superseded(t) {           /* decide() says abort: at any later time, so at once */
  if :: PAST(t,0) || PAST(t,1) || PAST(t,2) -> if :: t==FOCUS -> decA = 1 :: else -> assert(dec[t]!=COMMIT); dec[t] = ABORT fi :: else fi
}
inline check() {
  superseded(0); superseded(1); superseded(2);
  assert(!(decC && decA));
  assert(ONE_HISTORY(S) && ONE_HISTORY(WW));
  assert(!(BEFORE(0,1) && BEFORE(1,0)) && !(BEFORE(0,2) && BEFORE(2,0)) && !(BEFORE(1,2) && BEFORE(2,1)));
  assert(!(BEFORE(0,1) && BEFORE(1,2) && BEFORE(2,0)) && !(BEFORE(1,0) && BEFORE(2,1) && BEFORE(0,2)))
}
#define POSSIBLE(not) (N-(not) >= W)
#define VOTES(b) (IN(b,0)+IN(b,1)+IN(b,2))

active proctype World() {
  byte i, t, b, x;
end: do
  :: atomic {
     if :: i=0 :: i=1 :: i=2 fi; if :: dead[i] -> goto next :: else fi;
     if :: t=0 :: t=1 :: t=2 fi;
     if
     :: !begun[t] && A_FREE(t,i) && (t!=FOCUS || i==0) -> seal(t,i); if :: t==FOCUS -> ST(t,i) = SEALED :: else fi                               /* the base, under A, on whatever member leads it */
     :: ST(t,i)==NONE && FITS(t,i) && ((!dead[0] && ST(t,0)==COMM) || (!dead[1] && ST(t,1)==COMM) || (!dead[2] && ST(t,2)==COMM)) -> put(t,i)
#if D>0
     :: dead[0]+dead[1]+dead[2]<D -> dead[i] = 1
#endif
     :: t!=FOCUS && dec[t]==0 && FITS(t,i) -> ST(t,i) = PREP
     :: t!=FOCUS && dec[t]==0 && HOLDERS(t)>=W -> dec[t] = COMMIT
     :: t!=FOCUS && dec[t]==0 && begun[t] -> dec[t] = ABORT
     :: t!=FOCUS && dec[t]==0 && ST(t,i)==PREP -> ST(t,i) = NONE
     :: t!=FOCUS && ST(t,i)==PREP && dec[t]==COMMIT -> put(t,i)
     :: t!=FOCUS && ST(t,i)==PREP && dec[t]==ABORT -> ST(t,i) = NONE
     :: t==FOCUS && FITS(t,i) && i!=0 && !told[i] && !FENCED(i,0) -> told[i] = 1; ST(t,i) = PREP
     :: ST(t,i)==SEALED && told[1]+told[2]>=W-1 && !untold -> put(t,i); decC = 1
     :: ST(t,i)==SEALED -> ST(t,i) = NONE
     :: t==FOCUS && !untold && i==0 && ST(t,i)!=COMM -> untold = 1
     :: t==FOCUS && ST(t,i)==PREP && decC -> put(t,i)
     :: t==FOCUS && ST(t,i)==PREP && decA -> ST(t,i) = NONE
     :: t==FOCUS && begun[t] -> if :: b=1
#if K>1
        :: b=2
#endif
        fi;
        if
        :: prom[i]<=b && ST(t,i)!=COMM && ST(t,i)!=SEALED && !PAST(t,i) ->
             if :: ph[b]==0 && !IN(b,i) -> IN(b,i) = 1; prep[b] = prep[b]+(ST(t,i)==PREP); one[b] = one[b]+(acc[i]==1) :: true fi; prom[i] = b
        :: ph[b]==0 && VOTES(b)>=W ->              /* choose(); one resolver may have come before */
             if
#if K>1
                :: one[b]>0 && POSSIBLE(VOTES(b)-one[b]) -> ph[b] = ph[1]
#endif
                :: !(one[b]>0 && POSSIBLE(VOTES(b)-one[b])) && (untold || IN(b,0)) -> ph[b] = (prep[b]>=W -> COMMIT : ABORT)
                :: !(one[b]>0 && POSSIBLE(VOTES(b)-one[b])) && !IN(b,0) -> ph[b] = (prep[b]>0 && POSSIBLE(VOTES(b)-prep[b]) -> COMMIT : ABORT)
             fi; prep[b] = 0; one[b] = 0; IN(b,0) = 0; IN(b,1) = 0; IN(b,2) = 0
        :: ph[b]==ABORT && prom[i]<=b && !IN(b,i) && ST(t,i)!=COMM && ST(t,i)!=SEALED -> prom[i] = b; acc[i] = b; IN(b,i) = 1; if :: VOTES(b)>=W -> decA = 1 :: else fi
        :: ph[b]==COMMIT && prom[i]>=b && !FENCED(i,b) && FITS(t,i) -> ST(t,i) = PREP
        :: ph[b]==COMMIT && prom[i]<=b && !IN(b,i) && ST(t,i)==PREP -> prom[i] = b; acc[i] = b; IN(b,i) = 1; if :: VOTES(b)>=W -> decC = 1 :: else fi
        :: else
        fi
     :: else
     fi;
     check();
next: i = 0; t = 0; b = 0; x = 0 }
  od
}
