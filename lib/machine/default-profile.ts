/** The host that a machine is where nobody says otherwise. */
import { type Profile, profileFromHeader } from "./profile.ts";
import { x86_64_6_18_pvm } from "./profiles/x86_64-6.18-pvm.ts";

/** The host where nobody says which: x86-64, Linux 6.18. */
export const defaultProfile: Profile = profileFromHeader(x86_64_6_18_pvm);
