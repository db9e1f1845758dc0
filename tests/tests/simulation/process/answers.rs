//! What an answer means for the plan that asked: the next step, another attempt, or its end.

use super::*;

impl Process {
    /// The answer to the first step of a plan: the next step, and when to look at the key again.
    pub fn answered(
        &mut self,
        (work, plan): (&Work, u64),
        answer: &Answer,
        ms: u64,
    ) -> (Option<Sent>, Option<u64>) {
        if self.running.get(work).is_none_or(|running| running.id != plan) {
            return (None, None);
        }
        let Some(mut running) = self.running.remove(work) else { return (None, None) };
        let Some(request) = running.steps.pop_front() else { return (None, None) };
        let retry = match (&request, answer) {
            (_, Answer::Nobody) => Some(300),
            (Request::Get(_), Answer::Found(found)) => {
                running.steps.extend(self.collected(work, &running, found.as_ref()));
                None
            }
            // Until all nodes have listed their pods.
            (Request::Bind { .. }, Answer::Refused { code: 409, message }) if message == HELD => {
                Some(1_000)
            }
            (Request::Bind { target, .. }, Answer::Refused { .. }) => {
                self.assumed.remove(&target.uid);
                running.exists = true;
                None
            }
            (request, Answer::Done { revision, .. }) => {
                if let (Some(target), Some(revision)) = (target(request), revision) {
                    running.revisions.insert(target.uid.clone(), *revision);
                }
                let plural = plural(request);
                if let Some(revision) = revision {
                    let expected = Expected { revision: *revision, plural, until: ms + ROUND_TRIP };
                    self.expected.entry(work.clone()).or_default().push(expected);
                }
                None
            }
            (
                Request::Write(Write::Delete { resource_version, .. }),
                Answer::Refused { code, .. },
            ) if *code == 404 || (*code == 409 && resource_version.is_none()) => None,
            (Request::Write(Write::Create { .. }), Answer::Refused { code: 409, message })
                if message == "AlreadyExists" =>
            {
                running.exists = true;
                None
            }
            (_, Answer::Refused { code: 409 | 404, .. }) => Some(20),
            _ => Some(1_000),
        };
        if let Some(after) = retry {
            if let Request::Bind { target, .. } = &request {
                self.assumed.remove(&target.uid);
            }
            // What was not sent is not assumed any more.
            for step in &running.steps {
                if let Request::Bind { target, .. } = step {
                    self.assumed.remove(&target.uid);
                }
            }
            return (None, Some(after));
        }
        let Some(next) = running.steps.front_mut() else {
            let again = if running.exists { Some(50) } else { running.again };
            return (None, again);
        };
        // A revision refers to what an earlier write of the plan made of the object.
        if let Request::Write(
            Write::Patch { target, resource_version: Some(version), .. }
            | Write::Delete { target, resource_version: Some(version), .. },
        ) = next
            && let Some(newest) = running.revisions.get(&target.uid)
        {
            *version = newest.to_string();
        }
        let (request, term, work) = (next.clone(), running.term, work.clone());
        self.running.insert(work.clone(), running);
        (Some(Sent { work, plan, term, request }), None)
    }

    fn collected(
        &self,
        work: &Work,
        running: &Running,
        found: Option<&(String, bool)>,
    ) -> VecDeque<Request> {
        let (Work::Collect(plural, ..), Some(meta)) = (work, &running.collects) else {
            return VecDeque::new();
        };
        let owner = controller_of(meta).map(|owner| owner.uid.clone()).unwrap_or_default();
        let state = match found {
            Some((uid, _)) if *uid == owner => Owner::Solid,
            _ => Owner::Absent,
        };
        let resource = match *plural {
            "pods" => Resource::of::<Pod>(),
            _ => Resource::of::<ReplicaSet>(),
        };
        writes(&collect(resource, meta, &[state], &[]))
    }
}

pub(super) fn writes(plan: &Plan) -> VecDeque<Request> {
    plan.steps.iter().map(|step| Request::Write(step.write.clone())).collect()
}

fn target(request: &Request) -> Option<&Target> {
    match request {
        Request::Write(
            Write::Patch { target, .. }
            | Write::Delete { target, .. }
            | Write::Replace { target, .. },
        )
        | Request::Bind { target, .. } => Some(target),
        _ => None,
    }
}

fn plural(request: &Request) -> String {
    match request {
        Request::Write(Write::Create { resource, .. }) => resource.plural.to_string(),
        _ => target(request).map(|target| target.resource.plural.to_string()).unwrap_or_default(),
    }
}
