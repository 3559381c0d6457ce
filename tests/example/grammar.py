"""The sentences of the built-in example: three small grammars, written for this project.

A symbol's alternatives are separated by `|`; `<name>` is another symbol. Every label of a task has a root symbol.
The three tasks speak of the same things in the same words on purpose: "the kettle is noisy" is a bad review, may open
any request, and says nothing about how soon a note wants an answer. A word alone therefore seldom gives a label away
(reviews turn on negation, requests on the verb, notes on the time and on whether it can wait), and an adapter has to
change how the model reads the sentence.
"""

from __future__ import annotations

import random
import re

SHARED = {
    "thing": "kettle|lamp|backpack|blender|headset|keyboard|jacket|tent|pump|notebook|frying pan|coffee grinder|desk chair"
    "|umbrella|speaker|printer|clock|heater|fan|ladder|drill|mattress|suitcase|helmet|camera|toaster|vacuum cleaner|watch"
    "|bicycle|radio|scale|tablet|router|monitor|bookshelf|blanket|hammer|tripod|flask|iron",
    "good": "sturdy|quiet|bright|comfortable|accurate|handy|reliable|smooth|roomy|elegant|precise|pleasant",
    "bad": "flimsy|noisy|dim|slow|leaky|wobbly|clumsy|fragile|dull|bulky|crooked|useless",
    "part": "handle|lid|strap|button|cable|hinge|zip|wheel|cover|base|screen|battery|switch|stand|seam|plug|filter|knob",
    "who": "my sister|the neighbour|a friend|my father|our cleaner|the lodger|my aunt|a colleague|the whole family|my flatmate",
    "place": "kitchen|office|garage|cellar|hallway|workshop|van|bedroom|garden|attic|studio|shop",
    "quite": "|really|rather|very|quite|truly",
}

REVIEWS = {
    "start": "|after a month of use,|to be fair,|in our <place>,|as <who> said,|for the price,|out of the box,|honestly,",
    "subject": "the <thing>|this <thing>|the <part>|the <part> of the <thing>|our new <thing>",
    "not": "not|never|anything but|far from|hardly|by no means",
    "seems": "is|feels|looks|seems|turned out|was|stayed",
    "up": "<seems> <quite> <good>|<seems> <quite> <good>|<seems> <good> and <good>|<seems> <not> <bad>|<seems> neither <bad> nor <bad>",
    "down": "<seems> <quite> <bad>|<seems> <quite> <bad>|<seems> <bad> and <bad>|<seems> <not> <good>|<seems> neither <good> nor <good>",
    "join": "but|although|yet|even though|while",
    "keep": "I would buy it again|<who> wants one too|it was money well spent|it stays in the <place>",
    "drop": "I sent it back|<who> gave up on it|it was money wasted|it went to the attic",
    "positive": "<start> <subject> <up>.|<start> <subject> <up> and <keep>.|<start> <subject> <up>, and the <part> <up>.",
    "negative": "<start> <subject> <down>.|<start> <subject> <down> and <drop>.|<start> <subject> <down>, and the <part> <down>.",
    "mixed": "<start> <subject> <up>, <join> the <part> <down>.|<start> <subject> <down>, <join> the <part> <up>."
    "|<start> <subject> <up>, <join> <drop>.|<start> <subject> <down>, <join> <keep>.",
}

REQUESTS = {
    "greet": "|hello,|good morning,|hi there,|dear team,|excuse me,",
    "state": "|the <thing> I ordered is <bad>.|the <part> looks <good>.|<who> bought a <thing> from you.|my <thing> is not <good>."
    "|I have a <thing> with a <bad> <part>.|the <thing> is <good> but the <part> is <bad>.",
    "polite": "could you|can you|would you|will you|could you please",
    "end": "|thank you.|thanks a lot.|let me know.|kind regards.|I look forward to your answer.",
    "refund": "<polite> pay me back for the <thing>?|I want my money returned.|<polite> refund the <thing>?|<polite> return what I paid?"
    "|How do I get my money for the <thing> again?|I would like to be paid back in full.",
    "repair": "<polite> mend the <part> of my <thing>?|can the <thing> be fixed?|<polite> repair the <part>?|who can fix a <bad> <part>?"
    "|I need someone to mend the <thing>.|<polite> put a new <part> on my <thing>?",
    "delivery": "where is my <thing>?|when will the <thing> arrive?|<polite> tell me where the parcel is?|has the <thing> been sent?"
    "|the parcel with the <thing> has not come.|is my <thing> on its way to the <place>?",
    "advice": "which <thing> suits a small <place>?|what is the difference between the two <thing> models?|<polite> suggest a <good> <thing>?"
    "|is the <thing> or the <thing> better for the <place>?|do you have a <thing> that is not <bad>?|which <thing> would you take?",
    "cancel": "<polite> take the <thing> off my order?|I no longer want the <thing>.|<polite> stop my order?|do not send the <thing>."
    "|I changed my mind about the <thing>.|<polite> cancel what I ordered?",
    "ask refund": "<greet> <state> <refund> <end>",
    "ask repair": "<greet> <state> <repair> <end>",
    "ask delivery": "<greet> <state> <delivery> <end>",
    "ask advice": "<greet> <state> <advice> <end>",
    "ask cancel": "<greet> <state> <cancel> <end>",
}

NOTES = {
    "name": "Anna|Tom|Maria|Jan|Lena|Paul|Nora|Felix|Ida|Omar|Ruth|Sven",
    "job": "move the <thing> to the <place>|clean the <bad> <part>|order a <thing> for the <place>|check the <thing>|label the <thing>"
    "|pack the <good> <thing>|measure the <place>|return the <thing> to <who>|count every <thing> in the <place>|paint the <place>"
    "|call <who> about the <thing>|look for the <good> <thing>",
    "aside": "|the old one is <bad>.|the <part> is <good>.|<who> asked for it.|the <thing> in the <place> is not <good>.|it is in the <place>.",
    "soon": "right now|at once|within the hour|before noon|in ten minutes|immediately|straight away|this minute",
    "week": "by Friday|on Thursday|before the weekend|within three days|in the next few days|by the end of the week|on Wednesday",
    "far": "some day|when there is time|next year|whenever you like|at the end of the season|one of these months|in a quiet hour",
    "no hurry": "there is no hurry|it can wait|no need to rush|take your time|it is not pressing",
    "hurry": "it cannot wait|every minute counts|please hurry|we are waiting for it|drop everything else",
    "some hurry": "do not leave it till next week|it need not be today|not today, but do not forget it|a day or two is fine",
    "now": "<name>, <job> <soon>. <aside>|<name>, <job>. <aside> <hurry>.|<aside> <name>, <job> <soon>, <hurry>."
    "|<name>, not <week> but <soon>: <job>.",
    "this week": "<name>, <job> <week>. <aside>|<name>, <job>. <aside> <some hurry>.|<aside> <name>, <job> <week>, <some hurry>."
    "|<name>, not <soon> but <week>: <job>.",
    "whenever": "<name>, <job> <far>. <aside>|<name>, <job>. <aside> <no hurry>.|<aside> <name>, <job> <far>, <no hurry>."
    "|<name>, not <week> but <far>: <job>.",
}

TASKS = {
    "reviews": (REVIEWS, {"negative": "negative", "mixed": "mixed", "positive": "positive"}),
    "requests": (
        REQUESTS,
        {label: f"ask {label}" for label in ("advice", "cancel", "delivery", "refund", "repair")},
    ),
    "notes": (NOTES, {"now": "now", "this week": "this week", "whenever": "whenever"}),
}
"""By task its grammar and, by label, the root symbol."""


def expand(grammar: dict[str, str], symbol: str, draw: random.Random) -> str:
    chosen = draw.choice((grammar.get(symbol) or SHARED[symbol]).split("|"))
    return re.sub(r"<([^>]+)>", lambda found: expand(grammar, found[1], draw), chosen)


def sentence(task: str, label: str, draw: random.Random) -> str:
    """One text of a task with that label."""
    grammar, roots = TASKS[task]
    text = re.sub(r"\s+([.,:])", r"\1", re.sub(r"\s+", " ", expand(grammar, roots[label], draw))).strip()
    return re.sub(r"(^|[.?] )([a-z])", lambda found: found[1] + found[2].upper(), text)


def texts(task: str, count: int, draw: random.Random, taken: set[str]) -> list[tuple[str, str]]:
    """`count` new (text, label) pairs, labels in turn; nothing from `taken`, to which they are added."""
    labels = list(TASKS[task][1])
    found: list[tuple[str, str]] = []
    while len(found) < count:
        label = labels[len(found) % len(labels)]
        text = sentence(task, label, draw)
        if text not in taken:
            taken.add(text)
            found.append((text, label))
    draw.shuffle(found)
    return found
