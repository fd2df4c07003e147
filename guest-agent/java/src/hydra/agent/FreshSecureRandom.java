package hydra.agent;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodType;
import java.security.NoSuchAlgorithmException;
import java.security.Provider;
import java.security.SecureRandomParameters;
import java.security.SecureRandomSpi;
import java.security.Security;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A generator of the JDK's with a state of its own ({@code DRBG}, {@code SHA1PRNG}) that takes in new randomness of the system before it is first used after a restore.
 * {@link #install} puts it in the place of the JDK's. One that was seeded before it was asked for anything is meant to repeat, and does.
 */
final class FreshSecureRandom extends SecureRandomSpi {
    private static final long serialVersionUID = 1;
    private static final String[] ALGORITHMS = {"DRBG", "SHA1PRNG"};
    private static final int SEED_BYTES = 32;

    private final transient SecureRandomSpi generator;
    private final transient boolean mayRepeat;
    private boolean seeded;
    private boolean used;
    private int restores = Freshness.restores();

    private FreshSecureRandom(SecureRandomSpi generator, boolean mayRepeat) {
        this.generator = generator;
        this.mayRepeat = mayRepeat;
    }

    /** From now on those that are asked for by name are such. */
    static void install() {
        Provider provider = Security.getProvider("SUN");
        MethodHandle put = Internals.method(Provider.class, "putService", MethodType.methodType(void.class, Provider.Service.class));
        for (String algorithm : ALGORITHMS) {
            Provider.Service service = provider == null ? null : provider.getService("SecureRandom", algorithm);
            if (service != null) {
                try {
                    put.invoke(provider, new Service(provider, service));
                } catch (Throwable e) {
                    throw new LinkageError("this JDK's " + algorithm + " cannot be replaced", e);
                }
            }
        }
    }

    @Override
    protected synchronized void engineNextBytes(byte[] bytes) {
        refresh();
        try {
            Handles.NEXT_BYTES.invokeExact(generator, bytes);
        } catch (Throwable e) {
            throw unchecked(e);
        }
    }

    @Override
    protected synchronized void engineNextBytes(byte[] bytes, SecureRandomParameters parameters) {
        refresh();
        try {
            Handles.NEXT_BYTES_WITH.invokeExact(generator, bytes, parameters);
        } catch (Throwable e) {
            throw unchecked(e);
        }
    }

    @Override
    protected synchronized void engineSetSeed(byte[] seed) {
        seeded |= !used;
        supplement(seed);
    }

    @Override
    protected byte[] engineGenerateSeed(int count) {
        try {
            return (byte[]) Handles.GENERATE_SEED.invokeExact(generator, count);
        } catch (Throwable e) {
            throw unchecked(e);
        }
    }

    @Override
    protected synchronized void engineReseed(SecureRandomParameters parameters) {
        try {
            Handles.RESEED.invokeExact(generator, parameters);
        } catch (Throwable e) {
            throw unchecked(e);
        }
    }

    @Override
    protected SecureRandomParameters engineGetParameters() {
        try {
            return (SecureRandomParameters) Handles.PARAMETERS.invokeExact(generator);
        } catch (Throwable e) {
            throw unchecked(e);
        }
    }

    @Override
    public String toString() {
        return generator.toString();
    }

    private void refresh() {
        if (restores != Freshness.restores() && !(mayRepeat && seeded)) {
            supplement(Descriptors.systemRandom(SEED_BYTES));
        }
        restores = Freshness.restores();
        used = true;
    }

    private void supplement(byte[] seed) {
        try {
            Handles.SET_SEED.invokeExact(generator, seed);
        } catch (Throwable e) {
            throw unchecked(e);
        }
    }

    private static RuntimeException unchecked(Throwable thrown) {
        if (thrown instanceof Error error) {
            throw error;
        }
        return thrown instanceof RuntimeException exception ? exception : new IllegalStateException(thrown);
    }

    /** The methods of {@link SecureRandomSpi}, which are protected. */
    private static final class Handles {
        static final MethodHandle NEXT_BYTES = find("engineNextBytes", void.class, byte[].class);
        static final MethodHandle NEXT_BYTES_WITH = find("engineNextBytes", void.class, byte[].class, SecureRandomParameters.class);
        static final MethodHandle SET_SEED = find("engineSetSeed", void.class, byte[].class);
        static final MethodHandle GENERATE_SEED = find("engineGenerateSeed", byte[].class, int.class);
        static final MethodHandle RESEED = find("engineReseed", void.class, SecureRandomParameters.class);
        static final MethodHandle PARAMETERS = find("engineGetParameters", SecureRandomParameters.class);

        private static MethodHandle find(String name, Class<?> result, Class<?>... parameters) {
            return Internals.method(SecureRandomSpi.class, name, MethodType.methodType(result, parameters));
        }
    }

    /** Makes such generators in the place of another service. */
    private static final class Service extends Provider.Service {
        /** Makes the JDK's own: with parameters, or else without. A service that was replaced makes none any more. */
        private final MethodHandle withParameters;
        private final MethodHandle plain;

        Service(Provider provider, Provider.Service original) {
            super(provider, original.getType(), original.getAlgorithm(), original.getClassName(), List.of(), attributes(original));
            Class<?> type = Internals.find(original.getClassName());
            withParameters = Internals.constructor(type, SecureRandomParameters.class);
            plain = Internals.constructor(type);
        }

        @Override
        public Object newInstance(Object parameter) throws NoSuchAlgorithmException {
            try {
                if (withParameters != null) {
                    // Never the same twice, whatever it is seeded with.
                    return new FreshSecureRandom((SecureRandomSpi) withParameters.invoke((SecureRandomParameters) parameter), false);
                }
                if (parameter == null) {
                    return new FreshSecureRandom((SecureRandomSpi) plain.invoke(), true);
                }
            } catch (Throwable e) {
                throw new NoSuchAlgorithmException("cannot make a " + getAlgorithm(), e);
            }
            throw new NoSuchAlgorithmException(getAlgorithm() + " takes no parameters");
        }

        private static Map<String, String> attributes(Provider.Service service) {
            Map<String, String> attributes = new HashMap<>();
            for (String name : new String[] {"ThreadSafe", "ImplementedIn"}) {
                if (service.getAttribute(name) != null) {
                    attributes.put(name, service.getAttribute(name));
                }
            }
            return attributes;
        }
    }
}
