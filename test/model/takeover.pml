/*
 * takeover.pml - who may speak for a service, and what is lost when that changes: a model for spin
 *
 * Theory of operation
 * Two replicas, a register, one client. A replica holds a log of the client's inputs, 0 to INPUTS;
 * what it writes to the client is one number: up to which input it acknowledges (output that needs
 * no new input repeats the number). The register holds (epoch, owner) and changes by compare-and-swap
 * on the epoch. Everything between processes is a slot that holds the newest of its kind:
 *
 *   beat[i]   towards replica i: a primary's beat with its age, a standby's echo with the age of the
 *             beat it answers, or "I have no state"
 *   mail[i]   replication channel: GRANT (all state: from now on you may take over), DATA, HANDOVER
 *   stored[i] the standby's confirmation
 *   ask[i]    a question to the register and its answer; ghost[i] one whose asker has stopped waiting,
 *             or died, and which may still be executed
 *
 *   JOIN ──GRANT──> STBY ──the register says it is ours──> WON ──silence, drained──> ADOPTED ──> PRIM
 *     ^                                                                                 HAND <──┘
 *     └── a newer epoch is heard of, or the register says that another has it ──────────────────
 *
 * A primary is alone (nobody else may take over, as it has won the register for itself) or protected:
 * then it acknowledges only what is confirmed, and writes only within its lease, LEASE ticks from the
 * sending of its newest beat that the standby has answered. The standby speaks only when it has won
 * and DETECT ticks have passed since the last beat that it answered.
 *
 * Faults. Nothing makes a process or a slot move while time does, so every step may be followed by a
 * pause of any length, every message may wait or be overwritten (lost) for ever, and each partition
 * (of the link, in one direction or both; of either side from the register; of a register that is
 * gone) is the schedule in which that slot never moves. Crashes, and switches, are counted. A crash
 * loses all but the stored epoch, may cut the channel's end off, and is a restart as a joining node.
 *
 * Between the look at the clock (a segment is decided) and write(2) lies one step, so a pause fits
 * there too. What then leaves late, after another has spoken, is asserted to be one segment that
 * tells the client nothing the new speaker does not hold. With -DGATE the kernel drops it and nothing
 * leaves late at all.
 *
 * Asserted: one speaker in an epoch; who decides to speak knows the newest epoch spoken in; never two
 * that may speak at one time; who speaks holds all that was acknowledged; epochs only grow; the
 * address is claimed after the state is complete; a new life begins only when no state is left.
 * That somebody speaks again once all is well is not checked here.
 *
 * Simplifications, each by name:
 *   one connection    its whole state is the log; sequence numbers and kernels are the core's tests
 *   cumulative slots  DATA carries all that came before; a gap in the channel cannot be
 *   equal clocks      a tick is the same on both hosts; the code subtracts a margin for the rest
 *   durable register  it may be unreachable for ever, but never forgets
 *   fresh switch      after a switch the old primary joins anew; the code keeps it as the standby
 *   no clean-up       connections that are lost with both replicas are simply gone: a new life
 *   stored, adopted   are two steps here; in the code octets are applied before they are confirmed
 *   bounds            INPUTS, EPOCHS, CRASHES, SWITCHES: what would need more is not looked at
 *
 * Mutants, one -D each, break one rule; model_test.ts lists which assertion must find each.
 *
 * Sources: DESIGN sections 1, 5 and 6; Gray and Cheriton 1989, "Leases"; spin(1).
 */
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef SWITCHES
#define SWITCHES 1
#endif
#ifndef INPUTS
#define INPUTS 2
#endif
#ifndef EPOCHS
#define EPOCHS 4
#endif
/* Ticks; one is enough for safety, as any number of steps fits between two ticks. */
#ifndef DETECT
#define DETECT 1
#endif
#ifdef LONG_LEASE
#define LEASE (DETECT + 1)
#else
#define LEASE DETECT
#endif
#define OLD LEASE /* ages are not told apart beyond this */
#define NONE 15
#define NOBODY 2

/* roles */
#define JOIN 0
#define STBY 1
#define WON 2
#define ADOPTED 3
#define PRIM 4
#define HAND 5
/* kinds of mail and questions; 0 is an empty slot */
#define GRANT 1
#define DATA 2
#define HANDOVER 3
#define PENDING 1
#define ANSWERED 2

#define me _pid
#define you (1 - _pid)
#define may_speak(i) (role[i] == PRIM && (alone[i] || lease[i] < LEASE))
#ifdef STALE_SPEAK
#define decides(i) (role[i] == PRIM)
#else
#define decides(i) may_speak(i)
#endif

typedef Beat { bit sent; bit fresh; byte role; byte epoch; byte age };
typedef Mail { byte kind; byte epoch; byte value };
typedef Ask { byte kind; byte expect; byte epoch; byte owner; bit granted };

byte role[2], epoch[2], log[2], store[2], confirmed[2], lease[2], silent[2], segment[2];
bit alone[2], newLife[2];
Beat beat[2];
Mail mail[2], stored[2];
Ask ask[2];
byte ghost[2];
byte registerEpoch, registerOwner;

/* What the client and the checker know. */
byte acknowledged, spoken, held, lifeBegan;
byte speaker[EPOCHS + 1];
byte crashes, switches;

inline put_beat(target, asRole, ofAge) {
  beat[target].sent = 1; beat[target].fresh = 1; beat[target].role = asRole;
  beat[target].epoch = epoch[me]; beat[target].age = ofAge
}

inline send_beat() {
  if
  :: role[me] == PRIM -> put_beat(you, PRIM, 0)
  :: else -> put_beat(you, JOIN, OLD)
  fi
}

inline clear_beat(i) {
  beat[i].sent = 0; beat[i].fresh = 0; beat[i].role = 0; beat[i].epoch = 0; beat[i].age = 0
}

inline clear_mail(slot) { slot.kind = 0; slot.epoch = 0; slot.value = 0 }

inline clear_ask(i) {
  ask[i].kind = 0; ask[i].expect = 0; ask[i].epoch = 0; ask[i].owner = 0; ask[i].granted = 0
}

/* Everything but the stored epoch is gone; a replica that lost is in the same place. */
inline forget(i) {
  role[i] = JOIN; alone[i] = 0; log[i] = 0; store[i] = 0; confirmed[i] = 0;
  lease[i] = OLD; silent[i] = OLD; newLife[i] = 0
}

inline become_alone(term) {
  assert(term > epoch[me]); /* epochs_grow */
  epoch[me] = term; role[me] = PRIM; alone[me] = 1; confirmed[me] = 0; lease[me] = OLD;
  silent[me] = OLD; newLife[me] = 0
}

inline decide() {
  assert(!may_speak(you)); /* one_may_speak */
  assert(epoch[me] >= spoken); /* newest_epoch */
  assert(speaker[epoch[me]] == NOBODY || speaker[epoch[me]] == me); /* one_voice */
  assert(acknowledged <= log[me]); /* no_lost_commit */
#ifdef RELEASE_EARLY
  segment[me] = log[me]
#else
  if
  :: alone[me] -> segment[me] = log[me]
  :: else -> segment[me] = confirmed[me]
  fi
#endif
}

inline write_out() {
#ifdef GATE
  if
  :: !may_speak(me) -> segment[me] = NONE
  :: else -> skip
  fi;
  assert(segment[me] == NONE || epoch[me] >= spoken); /* gate */
#endif
  if
  :: segment[me] == NONE || epoch[me] < lifeBegan -> skip
  :: else ->
    if
    :: epoch[me] < spoken -> assert(segment[me] <= held) /* late_harmless */
    :: else -> spoken = epoch[me]; speaker[spoken] = me
    fi;
    if
    :: segment[me] > acknowledged -> acknowledged = segment[me]
    :: else -> skip
    fi
  fi;
  segment[me] = NONE
}

inline take_mail() {
  if
  :: mail[me].kind == GRANT && role[me] <= STBY && mail[me].epoch >= epoch[me] ->
    role[me] = STBY; epoch[me] = mail[me].epoch; newLife[me] = 0;
    store[me] = mail[me].value; log[me] = store[me]; silent[me] = 0;
    stored[you].kind = DATA; stored[you].epoch = epoch[me]; stored[you].value = store[me]
  :: mail[me].kind == DATA && (role[me] == STBY || role[me] == WON) &&
      mail[me].epoch == epoch[me] ->
#ifndef ACK_WITHOUT_LOG
    if
    :: mail[me].value > store[me] -> store[me] = mail[me].value
    :: else -> skip
    fi;
#endif
    stored[you].kind = DATA; stored[you].epoch = epoch[me]; stored[you].value = mail[me].value
  :: mail[me].kind == HANDOVER && role[me] == STBY && mail[me].epoch == epoch[me] ->
    silent[me] = OLD
  :: else -> skip
  fi;
  clear_mail(mail[me])
}

inline take_confirmation() {
  if
  :: role[me] >= PRIM && stored[me].epoch == epoch[me] ->
#ifdef GRANT_LATE
    if
    :: alone[me] -> alone[me] = 0; lease[me] = 0; confirmed[me] = stored[me].value
    :: else -> skip
    fi;
#endif
    if
    :: !alone[me] && stored[me].value > confirmed[me] -> confirmed[me] = stored[me].value
    :: else -> skip
    fi
  :: else -> skip
  fi;
  clear_mail(stored[me])
}

/* All state goes to the peer; only who is alone knows that nobody else can have taken over. */
inline grant() {
  mail[you].kind = GRANT; mail[you].epoch = epoch[me]; mail[you].value = log[me];
#ifndef GRANT_LATE
#ifdef GRANT_CONFIRMS
  alone[me] = 0; confirmed[me] = log[me]; lease[me] = 0
#else
  if
  :: alone[me] -> alone[me] = 0; confirmed[me] = log[me]; lease[me] = 0
  :: else -> skip
  fi
#endif
#endif
}

inline take_beat() {
  if
  :: beat[me].epoch > epoch[me] ->
    if
    :: role[me] == JOIN -> epoch[me] = beat[me].epoch; newLife[me] = 0
    :: (role[me] == WON || role[me] == ADOPTED) && beat[me].epoch == epoch[me] + 1 -> skip
    :: beat[me].role == PRIM && role[me] != JOIN -> epoch[me] = beat[me].epoch; forget(me)
    /* It may be our own claim that the peer has read: ask. */
    :: beat[me].role != PRIM && role[me] >= PRIM && !alone[me] -> lease[me] = OLD
    :: beat[me].role != PRIM && role[me] == STBY -> silent[me] = OLD
    :: else -> skip
    fi
  :: else -> skip
  fi;
  if
  :: beat[me].role == PRIM && beat[me].epoch == epoch[me] ->
    if
    :: role[me] == STBY -> silent[me] = 0; put_beat(you, STBY, beat[me].age)
    :: role[me] == JOIN -> put_beat(you, JOIN, OLD)
    :: else -> skip
    fi
  :: beat[me].role == STBY && beat[me].epoch == epoch[me] && role[me] == PRIM && !alone[me] ->
#ifdef LEASE_FROM_HEARING
    lease[me] = 0
#else
    if
    :: beat[me].age < lease[me] -> lease[me] = beat[me].age
    :: else -> skip
    fi
#endif
  :: beat[me].role == JOIN && beat[me].epoch <= epoch[me] && role[me] == PRIM &&
      mail[you].kind == 0 -> grant()
  :: beat[me].role == JOIN && beat[me].epoch == epoch[me] && role[me] == JOIN &&
      beat[me].fresh && me == 0 -> newLife[me] = 1
  :: else -> skip
  fi;
  clear_beat(me)
}

#ifdef JOIN_CLAIMS
#define joiner_asks (role[me] == JOIN)
#define begins_anew 1
#else
#define begins_anew newLife[me]
#define joiner_asks (role[me] == JOIN && newLife[me])
#endif

inline take_answer() {
  if
  :: role[me] == JOIN && ask[me].granted && begins_anew && ask[me].epoch == epoch[me] + 1 ->
    assert(role[you] == JOIN || epoch[you] < epoch[me]); /* nothing_left */
    become_alone(ask[me].epoch);
    acknowledged = 0; lifeBegan = epoch[me]; held = INPUTS
  :: role[me] == STBY && ask[me].owner == me && ask[me].epoch == epoch[me] + 1 -> role[me] = WON
  :: role[me] >= PRIM && ask[me].owner == me && ask[me].epoch == epoch[me] + 1 ->
    become_alone(ask[me].epoch)
  :: else ->
    if
    :: ask[me].epoch > epoch[me] && role[me] != WON && role[me] != ADOPTED ->
      epoch[me] = ask[me].epoch; forget(me)
    :: else -> skip
    fi
  fi;
  clear_ask(me)
}

#define asks (epoch[me] < EPOCHS && ask[me].kind == 0 && \
  ((role[me] == PRIM && !alone[me] && lease[me] >= LEASE) || role[me] == HAND || \
  (role[me] == STBY && silent[me] >= DETECT) || joiner_asks))

active [2] proctype Replica() {
  do
  :: d_step { segment[me] != NONE -> write_out() }
  :: d_step { segment[me] == NONE && decides(me) -> decide() }
  :: d_step { segment[me] == NONE && role[me] == PRIM && log[me] < INPUTS ->
      log[me]++; store[me] = log[me] }
  :: d_step { segment[me] == NONE && role[me] == PRIM && !alone[me] && confirmed[me] < log[me] &&
      mail[you].kind == 0 && stored[me].kind == 0 ->
      mail[you].kind = DATA; mail[you].epoch = epoch[me]; mail[you].value = log[me] }
  :: d_step { segment[me] == NONE && mail[me].kind != 0 -> take_mail() }
  :: d_step { segment[me] == NONE && stored[me].kind != 0 -> take_confirmation() }
  :: d_step { segment[me] == NONE && (role[me] == STBY || role[me] == WON) && log[me] < store[me] ->
      log[me] = store[me] }
  :: d_step { segment[me] == NONE && (role[me] == PRIM || role[me] == JOIN) &&
      (!beat[you].sent || (role[me] == PRIM && beat[you].age > 0)) -> send_beat() }
  :: d_step { segment[me] == NONE && beat[me].sent -> take_beat() }
#ifdef CLAIM_FIRST
  :: d_step { role[me] == STBY && silent[me] >= DETECT && epoch[me] < EPOCHS -> role[me] = WON }
#endif
  :: d_step { segment[me] == NONE && asks -> ask[me].kind = PENDING; ask[me].expect = epoch[me] }
  :: d_step { segment[me] == NONE && ask[me].kind == ANSWERED -> take_answer() }
#ifdef WON_SPEAKS
  :: d_step { role[me] == WON ->
#else
  :: d_step { role[me] == WON && silent[me] >= DETECT ->
#endif
#ifndef NO_DRAIN
      if
      :: mail[me].kind == DATA && mail[me].epoch == epoch[me] && mail[me].value > store[me] ->
        store[me] = mail[me].value
      :: else -> skip
      fi;
      log[me] = store[me];
#endif
      role[me] = ADOPTED }
  :: d_step { role[me] == ADOPTED ->
      become_alone(epoch[me] + 1);
      assert(acknowledged <= log[me]); /* no_lost_commit */
      assert(log[me] == store[me]); /* state_first */
      held = log[me] }
  :: d_step { segment[me] == NONE && switches < SWITCHES && may_speak(me) && !alone[me] &&
      confirmed[me] == log[me] && mail[you].kind == 0 ->
      switches++; role[me] = HAND; mail[you].kind = HANDOVER; mail[you].epoch = epoch[me] }
  od
}

inline execute(i, expected, ok) {
  ok = 0;
  if
  :: expected == registerEpoch -> registerEpoch++; registerOwner = i; ok = 1
  :: else -> skip
  fi
}

inline serve(i) {
  ask[i].kind == PENDING && (ask[i].expect != registerEpoch || registerEpoch < EPOCHS) ->
  execute(i, ask[i].expect, ask[i].granted);
  ask[i].kind = ANSWERED; ask[i].epoch = registerEpoch; ask[i].owner = registerOwner
}

inline serve_ghost(i) {
  ghost[i] != 0 && (ghost[i] != registerEpoch || registerEpoch < EPOCHS) ->
  execute(i, ghost[i], ignored);
  ghost[i] = 0
}

/* The asker stops waiting: what is under way may yet arrive. */
inline give_up(i) {
  if
  :: ask[i].kind == PENDING -> ghost[i] = ask[i].expect
  :: else -> skip
  fi;
  clear_ask(i)
}

inline crash(i) {
  crashes++;
  give_up(i);
  forget(i);
#ifdef VOLATILE_EPOCH
  epoch[i] = 0;
#endif
  segment[i] = NONE; beat[i].fresh = 0;
  clear_mail(mail[i]); clear_mail(stored[i])
}

inline older(x) {
  if
  :: x < OLD -> x++
  :: else -> skip
  fi
}

active proctype World() {
  bit ignored;
  d_step {
    registerEpoch = 1; registerOwner = 0; epoch[0] = 1; epoch[1] = 1; spoken = 1;
    speaker[0] = NOBODY; speaker[1] = 0;
    ignored = 0;
    crashes = 2;
    do
    :: crashes <= EPOCHS -> speaker[crashes] = NOBODY; crashes++
    :: else -> break
    od;
    crashes = 0;
    forget(0); forget(1); segment[0] = NONE; segment[1] = NONE;
    role[0] = PRIM; role[1] = STBY; lease[0] = 0; silent[1] = 0
  };
  do
  :: d_step { true ->
      older(lease[0]); older(lease[1]); older(silent[0]); older(silent[1]);
      if
      :: beat[0].sent -> older(beat[0].age)
      :: else -> skip
      fi;
      if
      :: beat[1].sent -> older(beat[1].age)
      :: else -> skip
      fi;
      skip }
  :: d_step { serve(0) }
  :: d_step { serve(1) }
  :: d_step { serve_ghost(0) }
  :: d_step { serve_ghost(1) }
  :: d_step { ask[0].kind != 0 -> give_up(0) }
  :: d_step { ask[1].kind != 0 -> give_up(1) }
  :: d_step { mail[0].kind != 0 -> clear_mail(mail[0]) }
  :: d_step { mail[1].kind != 0 -> clear_mail(mail[1]) }
  :: d_step { crashes < CRASHES -> crash(0) }
  :: d_step { crashes < CRASHES -> crash(1) }
  od
}
