import java.util.Map;

/** {@link Work#hello} as a function of Hydra. */
public class Hello {
    public static Map<String, Object> main(Map<String, Object> arguments) {
        return Work.hello(arguments);
    }
}
