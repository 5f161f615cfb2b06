//! The eleven edges of the state machine (semantics version 1). No others exist.
//!
//! Why an edge is taken is `propose`'s; this says only which exist.

use countersign_gateway_model::State;

/// Every edge: state before, state after.
pub const EDGES: [(State, State); 11] = [
    (State::Created, State::Running),
    (State::Running, State::WaitingForHuman),
    (State::Running, State::Completed),
    (State::Running, State::Terminated),
    (State::WaitingForHuman, State::Approved),
    (State::WaitingForHuman, State::Rejected),
    (State::WaitingForHuman, State::Overridden),
    (State::Approved, State::Resumed),
    (State::Overridden, State::Resumed),
    (State::Rejected, State::Terminated),
    (State::Resumed, State::Running),
];

/// Whether an instance may go from `from` to `to` in one step.
pub fn is_edge(from: State, to: State) -> bool {
    use State as S;
    match from {
        S::Created | S::Resumed => matches!(to, S::Running),
        S::Running => matches!(to, S::WaitingForHuman | S::Completed | S::Terminated),
        S::WaitingForHuman => matches!(to, S::Approved | S::Rejected | S::Overridden),
        S::Approved | S::Overridden => matches!(to, S::Resumed),
        S::Rejected => matches!(to, S::Terminated),
        S::Completed | S::Terminated => false,
    }
}

/// Whether an append may end in this state. RESUMED, APPROVED, OVERRIDDEN and REJECTED are only passed through.
pub fn may_rest(state: State) -> bool {
    match state {
        State::Created | State::Running | State::WaitingForHuman | State::Completed | State::Terminated => true,
        State::Approved | State::Rejected | State::Overridden | State::Resumed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_81_pairs() {
        let mut pairs = 0;
        let mut edges = 0;
        for from in State::ALL {
            for to in State::ALL {
                pairs += 1;
                let listed = EDGES.contains(&(from, to));
                assert_eq!(is_edge(from, to), listed, "{from} to {to}");
                edges += usize::from(listed);
            }
        }
        assert_eq!((pairs, edges), (81, 11));
    }

    #[test]
    fn terminal_states_have_no_way_out_and_every_other_state_has_one() {
        for from in State::ALL {
            assert_eq!(State::ALL.iter().any(|to| is_edge(from, *to)), !from.is_terminal(), "{from}");
        }
    }

    #[test]
    fn every_state_but_created_is_reached_and_a_terminal_one_is_reachable_from_each() {
        for to in State::ALL {
            assert_eq!(State::ALL.iter().any(|from| is_edge(*from, to)), to != State::Created, "{to}");
        }
        for from in State::ALL {
            let mut seen = vec![from];
            let mut next = 0;
            while let Some(at) = seen.get(next).copied() {
                next += 1;
                for to in State::ALL {
                    if is_edge(at, to) && !seen.contains(&to) {
                        seen.push(to);
                    }
                }
            }
            assert!(seen.contains(&State::Terminated) || from == State::Completed, "{from}");
        }
    }
}
