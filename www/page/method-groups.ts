/** The methods in the groups by which a person chooses: what they need, and whether they end in a cut. */
import { METHODS, type MethodFacts } from "../lib/index.ts";

/** How the titles of methods that end in a cut are told, where a group says it for all. */
export const CUT = ", cut by SVD";

const cuts = ({ title }: MethodFacts): boolean => title.endsWith(CUT);

export interface MethodGroup {
  id: string;
  title: string;
  methods: readonly MethodFacts[];
}

export const METHOD_GROUPS: readonly MethodGroup[] = [
  { id: "samples", title: "Looks at samples", methods: METHODS.filter(({ samples }) => samples) },
  {
    id: "free",
    title: "Needs no samples",
    methods: METHODS.filter((method) => !method.samples && !cuts(method)),
  },
  {
    id: "cut",
    title: "The same, cut to a smaller rank by SVD",
    methods: METHODS.filter((method) => !method.samples && cuts(method)),
  },
];
